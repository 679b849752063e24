//! When a line of a log happened. Error logs have local time in seconds.

use std::fs;
use std::path::Path;

use jiff::tz::TimeZone;

use crate::clock::Moment;

/// A line that was read this soon after its second happened when it was read: nearer than its stamp can say.
const FRESH_US: i64 = 2_000_000;

/// The host's time zone; UTC where /etc/localtime cannot be read.
pub fn zone(root: &Path) -> TimeZone {
    let bytes = fs::read(why502_gateway::files::below(root, Path::new("/etc/localtime")));
    bytes.ok().and_then(|bytes| TimeZone::tzif("local", &bytes).ok()).unwrap_or(TimeZone::UTC)
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
    fn seconds_and_fresh_lines() {
        let us = 1_795_527_969_000_000;
        let now = Moment { boottime_us: 90_000_000, realtime_us: us + 1_300_000 };
        assert_eq!(moment(Some(us), now), now);
        let late = Moment { boottime_us: 90_000_000, realtime_us: us + 10_000_000 };
        assert_eq!(moment(Some(us), late).boottime_us, 80_000_000);
        assert_eq!(moment(None, late), late);
    }
}
