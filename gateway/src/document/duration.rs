//! Times as they stand in such files.

/// Milliseconds of `1.5s`, as JSON has protobuf's Duration.
pub fn proto_ms(text: &str) -> Option<u64> {
    let (whole, part) = split(text.strip_suffix('s')?)?;
    whole.checked_mul(1000)?.checked_add(part / 1000)
}

/// Milliseconds of `1m30s`, `500ms` or `1.5h`, as Go's time.ParseDuration takes them, or of a number of seconds.
pub fn go_ms(text: &str) -> Option<u64> {
    if let Ok(seconds) = text.parse::<u64>() {
        return seconds.checked_mul(1000);
    }
    let mut rest = text;
    let mut total_us = 0_u64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (whole, part) = split(&rest[..digits])?;
        let end =
            rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |n| digits + n);
        let unit_us = match &rest[digits..end] {
            "ns" => {
                rest = &rest[end..];
                continue;
            }
            "us" | "µs" => 1,
            "ms" => 1000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            _ => return None,
        };
        let part_us = part.checked_mul(unit_us)? / 1_000_000;
        total_us = total_us.checked_add(whole.checked_mul(unit_us)?)?.checked_add(part_us)?;
        rest = &rest[end..];
    }
    (!text.is_empty()).then_some(total_us / 1000)
}

/// Whole part, and millionths.
fn split(text: &str) -> Option<(u64, u64)> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let part = part.get(..part.len().min(6))?;
    let millionths: u64 = format!("{part:0<6}").parse().ok()?;
    Some((if whole.is_empty() { 0 } else { whole.parse().ok()? }, millionths))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(
            [proto_ms("0.250s"), proto_ms("15s"), proto_ms("15")],
            [Some(250), Some(15_000), None]
        );
        assert_eq!(
            [go_ms("30"), go_ms("1m30.5s"), go_ms("0")],
            [Some(30_000), Some(90_500), Some(0)]
        );
        assert_eq!([go_ms("250ms"), go_ms("1.5h"), go_ms("x")], [Some(250), Some(5_400_000), None]);
        assert_eq!([go_ms(""), go_ms("99999999999999h"), proto_ms("é")], [None; 3]);
    }
}
