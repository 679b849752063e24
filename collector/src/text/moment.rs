//! Points and lengths of time as a tired person reads them. All in UTC; "now" is always a parameter.

use jiff::{SignedDuration, Timestamp, tz::TimeZone};

/// An RFC 3339 time of a message; `None` for "" and for what is none.
pub(crate) fn parse(rfc3339: &str) -> Option<Timestamp> {
    rfc3339.parse().ok()
}

/// `12:03:04.120`
pub(crate) fn clock_ms(at: Timestamp) -> String {
    TimeZone::UTC.to_datetime(at).strftime("%H:%M:%S%.3f").to_string()
}

/// `2026-11-24`
pub(crate) fn day(at: Timestamp) -> String {
    TimeZone::UTC.to_datetime(at).strftime("%Y-%m-%d").to_string()
}

/// `12:03:04`, with the date in front of it where it is not the day of `now`.
pub(crate) fn clock(at: Timestamp, now: Timestamp) -> String {
    let at = TimeZone::UTC.to_datetime(at);
    let same_day = at.date() == TimeZone::UTC.to_datetime(now).date();
    at.strftime(if same_day { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" }).to_string()
}

/// `139 ms`, `2.3 s`, `42 s`, `2 min 6 s`, `3 h 10 min`, `2 d 4 h`; without a sign.
pub(crate) fn span(length: SignedDuration) -> String {
    let length = length.unsigned_abs();
    let seconds = length.as_secs();
    let pair = |large: u64, large_unit: &str, small: u64, small_unit: &str| {
        if small == 0 {
            format!("{large} {large_unit}")
        } else {
            format!("{large} {large_unit} {small} {small_unit}")
        }
    };
    match seconds {
        0 if length.as_millis() == 0 => "under 1 ms".to_owned(),
        0 => format!("{} ms", length.as_millis()),
        1..10 => format!("{seconds}.{} s", length.subsec_millis() / 100),
        10..60 => format!("{seconds} s"),
        60..3_600 => pair(seconds / 60, "min", seconds % 60, "s"),
        3_600..86_400 => pair(seconds / 3_600, "h", seconds % 3_600 / 60, "min"),
        _ => pair(seconds / 86_400, "d", seconds % 86_400 / 3_600, "h"),
    }
}

/// `4 min 2 s ago`, `just now`. A time after `now` is one of another clock: within a minute it is called
/// `just now`, beyond that it is said.
pub(crate) fn ago(at: Timestamp, now: Timestamp) -> String {
    let age = now.duration_since(at);
    match age.as_secs() {
        -60..=1 => "just now".to_owned(),
        ..-60 => format!("{} in the future", span(age)),
        2..10 => format!("{} s ago", age.as_secs()),
        10.. => format!("{} ago", span(age)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn another_day_has_its_date() {
        let now = at("2026-11-24T00:00:10Z");
        assert_eq!(clock(at("2026-11-24T00:00:01.5Z"), now), "00:00:01");
        assert_eq!(clock(at("2026-11-23T23:59:59Z"), now), "2026-11-23 23:59:59");
        assert_eq!(clock_ms(at("2026-11-23T23:59:59.0417Z")), "23:59:59.041");
    }

    #[test]
    fn lengths_have_at_most_two_units() {
        let text = |ms| span(SignedDuration::from_millis(ms));
        let lengths = [139, 2_345, 42_999, 126_000, 120_000, 11_400_000, 187_200_000];
        assert_eq!(
            lengths.map(text),
            ["139 ms", "2.3 s", "42 s", "2 min 6 s", "2 min", "3 h 10 min", "2 d 4 h"]
        );
        assert_eq!(text(-139), "139 ms");
        assert_eq!(text(0), "under 1 ms");
    }

    #[test]
    fn a_clock_that_is_ahead_is_no_negative_age() {
        let now = at("2026-11-24T12:00:00Z");
        assert_eq!(ago(at("2026-11-24T12:00:01Z"), now), "just now");
        assert_eq!(ago(at("2026-11-24T11:59:55Z"), now), "5 s ago");
        assert_eq!(ago(at("2026-11-24T11:00:00Z"), now), "1 h ago");
        assert_eq!(ago(at("2026-11-24T13:00:00Z"), now), "1 h in the future");
    }
}
