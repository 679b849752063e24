//! Times as section 2.6 "Time format" of the manual has them: milliseconds without a unit.

/// Milliseconds of "5s", "5000", "1m30s"; `None`: no time.
pub fn milliseconds(text: &str) -> Option<u64> {
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let number: u64 = number.parse().ok()?;
        let length = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, left) = after.split_at(length);
        let one = match unit {
            "us" => number / 1000,
            "" | "ms" => number,
            "s" => number.checked_mul(1000)?,
            "m" => number.checked_mul(60_000)?,
            "h" => number.checked_mul(3_600_000)?,
            "d" => number.checked_mul(86_400_000)?,
            _ => return None,
        };
        total = total.checked_add(one)?;
        rest = left;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units() {
        let check = |text: &str, expected: Option<u64>| assert_eq!(milliseconds(text), expected);
        check("5000", Some(5000));
        check("5s", Some(5000));
        check("1m30s", Some(90_000));
        check("500us", Some(0));
        check("2h", Some(7_200_000));
        check("1d", Some(86_400_000));
        check("", None);
        check("5 s", None);
        check("99999999999999999d", None);
    }
}
