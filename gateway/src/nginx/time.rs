//! Times in a configuration: nginx.org/en/docs/syntax.html.

/// A minute, in milliseconds.
pub const MINUTE_MS: u64 = 60_000;

/// A time as in nginx: "60", "60s", "1m30s", "500ms".
pub fn time_ms(text: &str) -> Option<u64> {
    let mut total = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let number: u64 = rest[..digits].parse().ok()?;
        let unit_end = rest[digits..]
            .find(|c: char| c.is_ascii_digit())
            .map_or(rest.len(), |length| digits + length);
        let unit = match rest[digits..unit_end].trim() {
            "ms" => 1,
            "" | "s" => 1000,
            "m" => MINUTE_MS,
            "h" => 60 * MINUTE_MS,
            "d" => 24 * 60 * MINUTE_MS,
            "w" => 7 * 24 * 60 * MINUTE_MS,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[unit_end..];
    }
    Some(total)
}
