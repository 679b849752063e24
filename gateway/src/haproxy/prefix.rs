//! What a syslog daemon, or HAProxy's own `log ... format`, writes before a line: RFC 3164, RFC 5424, or nothing.

use jiff::Timestamp;

/// Longest of a stamp, a host and a tag; a line that has none is not looked at further.
const HEAD_MAX: usize = 320;
const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The line behind it, and when it was written, microseconds since 1970, where that has a zone.
pub fn strip(line: &str) -> (&str, Option<i64>) {
    let rest = priority(line);
    if let Some(behind) = bsd_stamp(rest) {
        return (behind_tag(behind).unwrap_or(behind), None);
    }
    let syslog = rest.strip_prefix("1 ").filter(|_| rest.len() < line.len());
    let Some((stamp, behind)) = syslog.unwrap_or(rest).split_once(' ') else { return (rest, None) };
    let Ok(at) = stamp.parse::<Timestamp>() else { return (rest, None) };
    let behind = match syslog {
        Some(_) => behind_structure(behind).unwrap_or(behind),
        None => behind_tag(behind).unwrap_or(behind),
    };
    (behind, Some(at.as_microsecond()))
}

/// Without "<134>".
fn priority(line: &str) -> &str {
    let inner = line.strip_prefix('<').and_then(|rest| rest.split_once('>'));
    let is = |number: &str| {
        (1..=3).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit())
    };
    inner.filter(|(number, _)| is(number)).map_or(line, |(_, rest)| rest)
}

/// What follows "Nov 27 22:23:49 ".
fn bsd_stamp(text: &str) -> Option<&str> {
    let (stamp, behind) = (text.get(..15)?, text.get(15..)?.strip_prefix(' ')?);
    let shape = stamp.bytes().skip(3).zip(b" 00 00:00:00").all(|(byte, like)| match like {
        b'0' => byte.is_ascii_digit() || byte == b' ',
        _ => byte == *like,
    });
    (MONTHS.contains(&stamp.get(..3)?) && shape).then_some(behind)
}

/// What follows "host haproxy[812]: " or "haproxy[812]: ".
fn behind_tag(text: &str) -> Option<&str> {
    let end = text.bytes().take(HEAD_MAX).position(|byte| byte == b':')?;
    let head = &text[..end];
    let tag = head.rsplit(' ').next()?;
    let words = head.split(' ').count();
    let tagged = tag.ends_with(']') && tag.contains('[')
        || tag.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_/.".contains(&b));
    // An IPv6 client begins with colons too.
    let behind = text[end + 1..].strip_prefix(' ')?;
    (words <= 2 && tagged && !tag.is_empty()).then_some(behind)
}

/// What follows "host app pid msgid [structure] " of RFC 5424.
fn behind_structure(text: &str) -> Option<&str> {
    let rest = text.splitn(5, ' ').nth(4)?;
    match rest.strip_prefix('[') {
        Some(inner) => inner.split_once("] ").map(|(_, rest)| rest),
        None => rest.strip_prefix("- "),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prefixes() {
        let line = "127.0.0.1:5 [27/Nov/2026:22:23:49.510] in b/s";
        let at = Some(1_795_818_229_510_000);
        let check = |before: &str, at: Option<i64>| {
            assert_eq!(strip(&format!("{before}{line}")), (line, at), "{before}");
        };
        check("", None);
        check("<134>", None);
        check("Nov 27 22:23:49 gw haproxy[812]: ", None);
        check("<134>Nov  7 22:23:49 haproxy[812]: ", None);
        check("Nov 27 22:23:49 gw haproxy: ", None);
        check("2026-11-27T22:23:49.510+00:00 gw haproxy[812]: ", at);
        check("<134>1 2026-11-27T22:23:49.510+00:00 gw haproxy 812 - - ", at);
        check("<134>1 2026-11-27T22:23:49.510Z gw haproxy 812 - [a b=\"c\"] ", at);
        assert_eq!(
            strip("::1:5 [27/Nov/2026:22:23:49.510] in b/s").0,
            "::1:5 [27/Nov/2026:22:23:49.510] in b/s"
        );
        assert_eq!(strip("").0, "");
    }

    proptest! {
        #[test]
        fn any_line_is_read(line: String, odd in "(<134>|1 |Nov 27 22:23:49 | |:|a|é|\\[|\\]){0,12}") {
            strip(&line);
            strip(&odd);
        }
    }
}
