//! Lines of any gateway, of which nobody says which: each is given to the reader that knows it.
//!
//! Most lines of a log tell of requests that went well. [`Search`] finds the others by their bytes,
//! so that only those are read: a status that a gateway answers for an upstream's failure, or a
//! word that error logs have.

use std::borrow::Cow;

use aho_corasick::{AhoCorasick, MatchKind};
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::Value;

use crate::kind::KINDS;
use crate::lines::{Lines, Told};
use crate::nginx::lines::NginxLines;
use crate::{cdn, nginx};

/// Longest part of a line that is read.
pub const LINE_MAX: usize = 64 << 10;

/// What a log of some kind looks like, and who reads it.
#[derive(Debug)]
struct Format {
    name: &'static str,
    knows: fn(&str) -> bool,
    lines: Box<dyn Lines>,
}

/// Reads lines of any gateway. It keeps what the readers keep.
#[derive(Debug)]
pub struct Any {
    formats: Vec<Format>,
    /// Who read the last line: most logs are of one kind.
    last: usize,
}

/// Names of all formats that are known, those of one's own gateways first.
pub fn names() -> impl Iterator<Item = &'static str> {
    let own = std::iter::once(nginx::NAME).chain(KINDS.iter().map(|kind| kind.name));
    own.chain(cdn::FORMATS.iter().map(|format| format.name))
}

impl Any {
    /// Stamps without a zone are taken as those of `zone`.
    pub fn new(zone: TimeZone) -> Self {
        let kinds = KINDS.iter().map(|kind| Format {
            name: kind.name,
            knows: kind.knows,
            lines: (kind.lines)(),
        });
        let cdns = cdn::FORMATS.iter().map(|format| Format {
            name: format.name,
            knows: format.knows,
            lines: (format.lines)(),
        });
        let nginx = Format {
            name: nginx::NAME,
            knows: nginx::lines::knows,
            lines: Box::new(NginxLines::without_configuration(Some(zone))),
        };
        // The predefined format of nginx is also Apache's, and the beginning of others: it is asked
        // last.
        Self { formats: kinds.chain(cdns).chain([nginx]).collect(), last: 0 }
    }

    /// Reads a line without its end; the name of the kind that wrote it, if one is known.
    pub fn read(&mut self, line: &str, told: &mut Vec<Told>) -> Option<&'static str> {
        if let Some(at) = self.who(line) {
            return Some(self.read_as(at, line, None, told));
        }
        let (inner, at_us) = unwrapped(line)?;
        let at = self.who(&inner)?;
        Some(self.read_as(at, &inner, at_us, told))
    }

    /// The name of the kind that wrote a line.
    pub fn knows(&mut self, line: &str) -> Option<&'static str> {
        let at = self.who(line).or_else(|| self.who(&unwrapped(line)?.0))?;
        self.formats.get(at).map(|format| format.name)
    }

    /// No further line is there for now: adds what waited for the next one.
    pub fn pause(&mut self, told: &mut Vec<Told>) {
        self.formats.iter_mut().for_each(|format| format.lines.pause(told));
    }

    fn who(&mut self, line: &str) -> Option<usize> {
        let knows = |format: &Format| (format.knows)(line);
        // nginx is last because others are more particular: it may not answer first.
        let particular = self.last + 1 < self.formats.len();
        if particular && self.formats.get(self.last).is_some_and(knows) {
            return Some(self.last);
        }
        self.last = self.formats.iter().position(knows)?;
        Some(self.last)
    }

    fn read_as(
        &mut self,
        at: usize,
        line: &str,
        at_us: Option<i64>,
        told: &mut Vec<Told>,
    ) -> &'static str {
        let Some(format) = self.formats.get_mut(at) else { return "" };
        let before = told.len();
        format.lines.read(line, told);
        for told in told.iter_mut().skip(before) {
            told.at_us = told.at_us.or(at_us);
        }
        format.name
    }
}

/// What a line holds that something between the gateway and the file wrote: Docker's JSON,
/// Kubernetes' prefix (`TIME stderr F `), or the head of a line of syslog or journalctl; and its
/// time, where that has a zone.
fn unwrapped(line: &str) -> Option<(Cow<'_, str>, Option<i64>)> {
    if line.starts_with('{') {
        let Ok(Value::Object(fields)) = serde_json::from_str(line) else { return None };
        // Docker; journalctl -o json; what most shippers make of either.
        let text = ["log", "MESSAGE", "message", "msg"].iter().find_map(|name| fields.get(*name));
        let text = text?.as_str()?.trim_end().to_owned();
        let at_us = fields.get("time").and_then(Value::as_str).and_then(micros);
        return Some((Cow::Owned(text), at_us));
    }
    let mut words = line.splitn(4, ' ');
    if let (Some(time), Some("stdout" | "stderr"), Some("F" | "P"), Some(rest)) =
        (words.next(), words.next(), words.next(), words.next())
    {
        return Some((Cow::Borrowed(rest), micros(time)));
    }
    /// Time, host and tag of a syslog line.
    const HEAD_MAX: usize = 160;
    let (head, rest) = line.split_once(": ")?;
    let tagged = head.len() <= HEAD_MAX && head.contains(' ');
    let at_us = head.split(' ').next().and_then(micros);
    tagged.then_some((Cow::Borrowed(rest), at_us))
}

fn micros(text: &str) -> Option<i64> {
    text.parse::<Timestamp>().ok().map(Timestamp::as_microsecond)
}

/// Finds lines that may tell of a failure.
#[derive(Clone, Debug)]
pub struct Search(AhoCorasick);

/// Statuses that a gateway, or a network of them, answers for an upstream's failure. They come
/// first.
const STATUSES: [&str; 11] =
    ["502", "503", "504", "520", "521", "522", "523", "524", "525", "526", "530"];

/// Words of error logs, in any of the ways in which levels are written, and of lines about peers.
const WORDS: [&str; 14] = [
    "rror\"",
    "rror]",
    "=error",
    "crit]",
    "lert]",
    "merg]",
    "warn]",
    " DOWN",
    " ERR ",
    "ERROR",
    "eject",
    "no server available",
    " SD",
    " sD",
];

impl Search {
    /// Builds it; `None` never happens with these words.
    pub fn new() -> Option<Self> {
        let words = STATUSES.iter().chain(&WORDS);
        AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(words).ok().map(Self)
    }

    /// Where the next line of `bytes` that may tell of a failure begins and ends, from `from` on.
    pub fn next(&self, bytes: &[u8], from: usize) -> Option<(usize, usize)> {
        let mut at = from;
        loop {
            let found = self.0.find(aho_corasick::Input::new(bytes).range(at..))?;
            let status = found.pattern().as_usize() < STATUSES.len();
            if status && !stands_alone(bytes, found.start(), found.end()) {
                at = found.start() + 1;
                continue;
            }
            let start = memchr::memrchr(b'\n', bytes.get(from..found.start())?);
            let start = start.map_or(from, |start| from + start + 1);
            let end = memchr::memchr(b'\n', bytes.get(found.end()..)?);
            return Some((start, end.map_or(bytes.len(), |end| found.end() + end)));
        }
    }
}

/// Whether digits are a number of their own: no part of a larger one, of a time or of a word.
fn stands_alone(bytes: &[u8], start: usize, end: usize) -> bool {
    let before = start.checked_sub(1).and_then(|at| bytes.get(at));
    let outside = |byte: Option<&u8>| {
        byte.is_none_or(|byte| !byte.is_ascii_alphanumeric() && !b".-_/%+".contains(byte))
    };
    outside(before) && outside(bytes.get(end))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(text: &str) -> Vec<&str> {
        let search = Search::new().unwrap();
        let (mut lines, mut from) = (Vec::new(), 0);
        while let Some((start, end)) = search.next(text.as_bytes(), from) {
            lines.push(&text[start..end]);
            from = end;
        }
        lines
    }

    #[test]
    fn lines_that_may_tell_of_a_failure() {
        let text = "a \"GET /502x\" 200 5020\nb \"x\" 502 1\nc 0.502 1502\nd [error] x\n{\"s\":504}\ne 503";
        assert_eq!(found(text), ["b \"x\" 502 1", "d [error] x", "{\"s\":504}", "e 503"]);
    }

    #[test]
    fn lines_in_wrappers() {
        let mut any = Any::new(TimeZone::UTC);
        let line = "2026/11/24 13:46:09 [error] 8#8: *1 connect() failed (111: Connection refused) while connecting to \
                    upstream, client: ::1, server: a, request: \"GET / HTTP/1.1\", upstream: \"http://10.0.0.7:80/\"";
        let docker = serde_json::json!({"log": format!("{line}\n"), "stream": "stderr", "time": "2026-11-24T13:46:09Z"});
        for line in [
            line.to_owned(),
            docker.to_string(),
            format!("2026-11-24T13:46:09.1Z stderr F {line}"),
            format!("Nov 24 13:46:09 gw nginx[812]: {line}"),
        ] {
            let mut told = Vec::new();
            assert_eq!(any.read(&line, &mut told), Some("nginx"), "{line}");
            assert!(told.len() == 1 && told[0].at_us.is_some(), "{told:?}");
        }
    }

    proptest! {
        #[test]
        fn any_line_is_read(line: String, rest in "[ -~]{0,80}") {
            let mut any = Any::new(TimeZone::UTC);
            let mut told = Vec::new();
            any.read(&line, &mut told);
            any.read(&format!("{{\"log\":\"{rest}\"}}"), &mut told);
            any.read(&format!("2026-11-24T13:46:09.1Z stderr F {rest}"), &mut told);
        }

        #[test]
        fn every_line_is_found_once(parts in proptest::collection::vec("(502|x|\n| |error\\]|SD|5){0,9}", 0..20)) {
            let text = parts.concat();
            let lines = found(&text);
            prop_assert!(lines.iter().all(|line| !line.contains('\n')));
            prop_assert!(lines.len() <= text.split('\n').count());
        }
    }
}
