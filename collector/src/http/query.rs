//! The query part of a URL, strictly: what is not known is an error that names the parameter, so that a typing
//! mistake never widens a question silently.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use super::problem::Problem;

/// No name, route or time is longer.
const VALUE_BYTES_MAX: usize = 1024;

/// The parameters of one request, decoded.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Query(BTreeMap<String, String>);

impl Query {
    pub(super) fn parse(raw: Option<&str>, known: &[&str]) -> Result<Self, Problem> {
        let mut values = BTreeMap::new();
        for pair in raw.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let Some(known_name) = known.iter().find(|known| **known == name) else {
                let shown: String = name.chars().take(40).collect();
                let hint = match known {
                    [] => "this address takes no parameters".to_owned(),
                    known => format!("parameters here: {}", known.join(", ")),
                };
                return Err(Problem::bad_request(format!("unknown parameter {shown:?}"), hint));
            };
            let value = decode(value).ok_or_else(|| {
                Problem::bad_request(
                    format!("{known_name} is not readable"),
                    "write it percent-encoded in UTF-8, without control characters, at most 1024 \
                     bytes",
                )
            })?;
            if values.insert((*known_name).to_owned(), value).is_some() {
                let detail = format!("{known_name} is there twice");
                return Err(Problem::bad_request(detail, "give it once"));
            }
        }
        Ok(Self(values))
    }

    /// "" where it is not there.
    pub(super) fn text(&self, name: &str) -> String {
        self.0.get(name).cloned().unwrap_or_default()
    }

    /// One of `choices`, or "" where it is not there.
    pub(super) fn choice(&self, name: &str, choices: &[&str]) -> Result<String, Problem> {
        let value = self.text(name);
        if value.is_empty() || choices.contains(&value.as_str()) {
            return Ok(value);
        }
        let hint = format!("{name} is one of: {}", choices.join(", "));
        Err(Problem::bad_request(format!("{name}={value:?} is not known"), hint))
    }

    /// `None` where it is not there.
    pub(super) fn number(&self, name: &str, max: u32) -> Result<Option<u32>, Problem> {
        let Some(text) = self.0.get(name) else { return Ok(None) };
        match text.parse() {
            Ok(number) if (1..=max).contains(&number) => Ok(Some(number)),
            _ => Err(Problem::bad_request(
                format!("{name}={text:?} is not a number from 1 to {max}"),
                format!("give {name} as a number from 1 to {max}, or leave it out"),
            )),
        }
    }

    /// RFC 3339, or a length of time before `now` ("10m"); given back as RFC 3339, "" where it is not there.
    pub(super) fn time(&self, name: &str, now: Timestamp) -> Result<String, Problem> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(text);
        }
        if let Ok(at) = text.parse::<Timestamp>() {
            return Ok(at.to_string());
        }
        let ago = text.parse::<SignedDuration>().ok().filter(|ago| !ago.is_negative());
        match ago.and_then(|ago| now.checked_sub(ago).ok()) {
            Some(at) => Ok(format!("{at:.3}")),
            None => Err(Problem::bad_request(
                format!("{name}={text:?} is not a time"),
                format!("write {name} as 2026-11-24T12:50:00Z, or as 10m for ten minutes ago"),
            )),
        }
    }
}

/// `%41+b` is `A b`. `None` for broken escapes, other encodings, control characters and excess length.
fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            byte => byte,
        });
    }
    let text = String::from_utf8(bytes).ok()?;
    (text.len() <= VALUE_BYTES_MAX && !text.chars().any(char::is_control)).then_some(text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-24T12:00:00Z".parse().unwrap()
    }

    #[track_caller]
    fn refused(raw: &str, detail: &str) {
        let problem = Query::parse(Some(raw), &["limit", "since"])
            .and_then(|query| {
                query.number("limit", 1000)?;
                query.time("since", now())
            })
            .unwrap_err();
        assert_eq!(problem.detail, detail);
        assert!(!problem.hint.is_empty());
    }

    #[test]
    fn garbage_is_refused_by_name() {
        refused("limti=1", r#"unknown parameter "limti""#);
        refused("limit=0", r#"limit="0" is not a number from 1 to 1000"#);
        refused("limit=9999999999", r#"limit="9999999999" is not a number from 1 to 1000"#);
        refused("limit=1&limit=2", "limit is there twice");
        refused("limit=%zz", "limit is not readable");
        refused("limit=%ff", "limit is not readable");
        refused("since=%00", "since is not readable");
        refused("since=yesterday", r#"since="yesterday" is not a time"#);
        refused("since=-10m", r#"since="-10m" is not a time"#);
    }

    #[test]
    fn times_are_absolute_or_ago() {
        let since = |raw| Query::parse(Some(raw), &["since"]).unwrap().time("since", now());
        assert_eq!(since("since=10m").unwrap(), "2026-11-24T11:50:00.000Z");
        assert_eq!(since("since=2026-11-24T12%3A00:00%2b01:00").unwrap(), "2026-11-24T11:00:00Z");
        assert_eq!(since("").unwrap(), "");
    }

    proptest! {
        #[test]
        fn no_query_panics(raw in ".{0,80}") {
            let _ = Query::parse(Some(&raw), &["a", "b"]);
        }

        #[test]
        fn what_is_encoded_is_read(text in "[^\\p{C}]{0,40}") {
            let raw: String = text.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let query = Query::parse(Some(&format!("a={raw}")), &["a"]).unwrap();
            prop_assert_eq!(query.text("a"), text);
        }
    }
}
