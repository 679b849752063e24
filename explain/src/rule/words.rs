//! How rules write times, sizes and durations.

/// "12:03:05" in UTC.
pub(super) fn clock(at_us: i64) -> String {
    let text = why502_proto::rfc3339(at_us);
    text.get(11..19).map(|time| format!("{time} UTC")).unwrap_or_default()
}

/// "512 MiB"
pub(super) fn bytes(bytes: u64) -> String {
    const UNITS: [(&str, u64); 3] = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    for (unit, size) in UNITS {
        if bytes >= size {
            let tenths = (bytes / (size / 10).max(1)) % 10;
            let whole = bytes / size;
            return if whole >= 10 || bytes.is_multiple_of(size) {
                format!("{whole} {unit}")
            } else {
                format!("{whole}.{tenths} {unit}")
            };
        }
    }
    format!("{bytes} bytes")
}

/// "3.7 s", "2 min", "5 h"
pub(super) fn duration_ms(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..120_000 => {
            let (whole, tenths) = (ms / 1000, ms / 100 % 10);
            if tenths == 0 { format!("{whole} s") } else { format!("{whole}.{tenths} s") }
        }
        120_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} days", ms / 86_400_000),
    }
}

/// The time from one moment to a later one.
pub(super) fn between(from_us: i64, to_us: i64) -> String {
    duration_ms(u64::try_from(to_us.saturating_sub(from_us) / 1000).unwrap_or(0))
}

/// "a", "a and b", "a, b and c"
pub(super) fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [only] => only.clone(),
        [init @ .., last] => format!("{} and {last}", init.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(bytes(512 << 20), "512 MiB");
        assert_eq!(bytes(1_610_612_736), "1.5 GiB");
        assert_eq!(bytes(12), "12 bytes");
        assert_eq!(duration_ms(3_700), "3.7 s");
        assert_eq!(duration_ms(60_000), "60 s");
        assert_eq!(duration_ms(7_200_000), "2 h");
        assert_eq!(clock(1_764_000_000_123_999), "16:00:00 UTC");
        assert_eq!(list(&["a".into(), "b".into(), "c".into()]), "a, b and c");
    }
}
