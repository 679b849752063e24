//! When a line of a log happened. Error logs have local time in seconds.

use std::fs;
use std::path::Path;

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use crate::clock::Moment;

/// A line that was read this soon after its second happened when it was read: nearer than its stamp can say.
const FRESH_US: i64 = 2_000_000;

/// The host's time zone; UTC where /etc/localtime cannot be read.
pub fn zone(root: &Path) -> TimeZone {
    let bytes = fs::read(why502_gateway::files::below(root, Path::new("/etc/localtime")));
    bytes.ok().and_then(|bytes| TimeZone::tzif("local", &bytes).ok()).unwrap_or(TimeZone::UTC)
}

/// Microseconds since 1970 of "2026/11/24 13:46:09".
pub fn error_log_us(stamp: &str, zone: &TimeZone) -> Option<i64> {
    let number = |from: usize, to: usize| stamp.get(from..to)?.parse::<i8>().ok();
    let year = stamp.get(0..4)?.parse().ok()?;
    let (month, day) = (number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let time = DateTime::new(year, month, day, hour, minute, second.min(59), 0).ok()?;
    Some(zone.to_ambiguous_timestamp(time).compatible().ok()?.as_microsecond())
}

/// When a line with the stamp `second_us` happened that was read at `now`.
pub fn moment(second_us: Option<i64>, now: Moment) -> Moment {
    match second_us {
        Some(second) if now.realtime_us.saturating_sub(second).abs() > FRESH_US => {
            now.at_realtime(second)
        }
        _ => now,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_seconds_and_fresh_lines() {
        let us = error_log_us("2026/11/24 13:46:09", &TimeZone::UTC).unwrap();
        assert_eq!(us, 1_795_527_969_000_000);
        assert_eq!(error_log_us("2026/13/24 13:46:09", &TimeZone::UTC), None);
        let now = Moment { boottime_us: 90_000_000, realtime_us: us + 1_300_000 };
        assert_eq!(moment(Some(us), now), now);
        let late = Moment { boottime_us: 90_000_000, realtime_us: us + 10_000_000 };
        assert_eq!(moment(Some(us), late).boottime_us, 80_000_000);
        assert_eq!(moment(None, late), late);
    }
}
