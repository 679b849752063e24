//! Secrets that show by their looks, whatever stands before them.

use std::ops::Range;

use super::is_word;

/// A word that begins like this, and goes on for [`ISSUED_MIN`] bytes, is a key that somebody issued.
const ISSUED_PREFIXES: [&str; 26] = [
    "AIza",
    "AKIA",
    "ASIA",
    "SG.",
    "dckr_pat_",
    "dop_v1_",
    "eyJ",
    "ghp_",
    "gho_",
    "ghr_",
    "ghs_",
    "ghu_",
    "github_pat_",
    "glpat-",
    "hvb.",
    "hvs.",
    "npm_",
    "pk_live_",
    "pypi-",
    "rk_live_",
    "shpat_",
    "sk-",
    "sk_live_",
    "sk_test_",
    "xoxb-",
    "xoxp-",
];

/// Shortest key with a known prefix.
const ISSUED_MIN: usize = 16;

/// A private key, to the end of the text.
pub(super) fn pem(_before: char, rest: &str) -> Option<Range<usize>> {
    let label = rest.strip_prefix("-----BEGIN ")?;
    label.get(..label.len().min(40))?.contains("PRIVATE KEY").then_some(0..rest.len())
}

/// `ghp_…`, `AKIA…`, `eyJ…`.
pub(super) fn issued_key(before: char, rest: &str) -> Option<Range<usize>> {
    if is_word(before) || !ISSUED_PREFIXES.iter().any(|prefix| rest.starts_with(prefix)) {
        return None;
    }
    let end = rest
        .bytes()
        .take_while(|byte| byte.is_ascii_alphanumeric() || b"_-.+/=".contains(byte))
        .count();
    let known = end >= ISSUED_MIN
        && rest[..end].bytes().any(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
    known.then_some(0..end)
}

/// Text that nobody types: 32 or more hexadecimal digits, or base64 of 20 or more bytes.
pub(super) fn random_run(before: char, rest: &str) -> Option<Range<usize>> {
    if is_word(before) || !rest.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return None;
    }
    // Behind a slash it is a part of a path, which ends at the next one; elsewhere base64 has slashes too.
    let in_path = before == '/' || before == '.';
    let run = |also: &[u8]| {
        rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || also.contains(b)).count()
    };
    let hex = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
    if hex >= 32 && hex == run(b"_") {
        return Some(0..hex);
    }
    let end = run(if in_path { b"_-+=" } else { b"_-+=/" });
    looks_random(&rest[..end]).then_some(0..end)
}

/// Upper case, lower case and digits, changing from one to another far more often than words do.
fn looks_random(run: &str) -> bool {
    #[derive(PartialEq)]
    enum Class {
        Upper,
        Lower,
        Digit,
        Other,
    }
    let class = |byte: u8| match byte {
        b'A'..=b'Z' => Class::Upper,
        b'a'..=b'z' => Class::Lower,
        b'0'..=b'9' => Class::Digit,
        _ => Class::Other,
    };
    let all = |wanted: &Class| run.bytes().filter(|byte| class(*byte) == *wanted).count();
    let (upper, lower, digits) = (all(&Class::Upper), all(&Class::Lower), all(&Class::Digit));
    let changes = run.as_bytes().windows(2).filter(|w| class(w[0]) != class(w[1])).count();
    let often = if run.len() >= 32 { changes * 3 >= run.len() } else { changes * 2 >= run.len() };
    run.len() >= 20 && upper >= 2 && lower >= 2 && digits >= 1 && often
}
