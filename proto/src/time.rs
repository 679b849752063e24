//! Points in time as people read them.

/// RFC 3339 in UTC with milliseconds: `2026-11-24T12:50:00.123Z`. Times outside of the years -9999 to 9999 give
/// "".
pub fn rfc3339(unix_us: i64) -> String {
    jiff::Timestamp::from_microsecond(unix_us).map(|time| format!("{time:.3}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #[test]
    fn milliseconds_in_utc() {
        assert_eq!(super::rfc3339(1_764_000_000_123_999), "2025-11-24T16:00:00.123Z");
    }
}
