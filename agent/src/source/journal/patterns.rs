//! What app servers write about themselves: lines become facts by a table of patterns.
//!
//! A pattern is text with holes: `{pid}`, `{signal}` (number or name), `{status}`, `{seconds}`, `{limit}`, `{pool}`
//! and `{*}` for anything. It may begin anywhere in a line. All patterns are tried in one pass over the line that
//! looks at four bytes at a time, so that a line without news costs a fraction of a microsecond.

use std::sync::LazyLock;

use why502_proto::v1::{AppEvent, AppServerEvent};

use why502_gateway::redact;

mod php;
mod python;
mod ruby;
mod runtime;
mod server;

/// Every line that is known. A line matches one pattern.
const TABLES: &[&[Pattern]] =
    &[php::LINES, python::LINES, ruby::LINES, runtime::LINES, server::LINES];

/// How much of a line is looked at. All patterns begin near the start of their line.
const LOOK_MAX: usize = 1024;

/// One kind of line of one server.
struct Pattern {
    /// As in `AppServerEvent.server`.
    server: &'static str,
    event: AppEvent,
    /// Text with holes; begins with at least [`GRAM`] bytes of text.
    text: &'static str,
    /// Lines as they were really written.
    #[cfg_attr(not(test), expect(dead_code, reason = "the tests hold each pattern to them"))]
    examples: &'static [&'static str],
}

/// A row of the table. Lines stand there as the servers' own sources have them, or as they were seen.
const fn line(
    server: &'static str,
    event: AppEvent,
    text: &'static str,
    examples: &'static [&'static str],
) -> Pattern {
    Pattern { server, event, text, examples }
}

/// What a line of an app server says. The unit is left empty, the pid is 0 where the line names none.
pub fn match_line(line: &str) -> Option<AppServerEvent> {
    let looked = &line[..line.floor_char_boundary(line.len().min(LOOK_MAX))];
    MATCHER.find(looked).map(|(pattern, captures)| captures.event(pattern, line))
}

static MATCHER: LazyLock<Matcher> = LazyLock::new(Matcher::new);

/// So many bytes decide whether a pattern may begin here.
const GRAM: usize = 4;

/// Bits of the filter: with a hundred patterns one place in 600 is looked at in vain.
const FILTER_BITS: usize = 1 << 16;

struct Matcher {
    patterns: Vec<(&'static Pattern, Vec<Part>)>,
    /// A bit for each hash of the first bytes of a pattern.
    filter: Vec<u64>,
}

/// A piece of a pattern.
#[derive(Clone, Copy, Debug)]
enum Part {
    Text(&'static str),
    Hole(Hole),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hole {
    Any,
    Limit,
    Pid,
    Pool,
    Seconds,
    Signal,
    Status,
}

impl Matcher {
    fn new() -> Self {
        let mut filter = vec![0; FILTER_BITS / 64];
        let mut patterns = Vec::new();
        for pattern in TABLES.iter().copied().flatten() {
            let (slot, bit) = place(pattern.text.as_bytes());
            filter[slot] |= bit;
            patterns.push((pattern, parts(pattern.text)));
        }
        Self { patterns, filter }
    }

    fn find(&self, line: &str) -> Option<(&'static Pattern, Captures)> {
        let bytes = line.as_bytes();
        for at in 0..bytes.len().saturating_sub(GRAM - 1) {
            let (slot, bit) = place(&bytes[at..at + GRAM]);
            if self.filter[slot] & bit == 0 || !line.is_char_boundary(at) {
                continue;
            }
            for (pattern, parts) in &self.patterns {
                let mut captures = Captures::default();
                if pattern.text.as_bytes()[..GRAM] == bytes[at..at + GRAM]
                    && captures.take(parts, &line[at..])
                {
                    return Some((pattern, captures));
                }
            }
        }
        None
    }
}

/// Where in the filter the first bytes of a text are.
fn place(text: &[u8]) -> (usize, u64) {
    let gram = text.iter().take(GRAM).fold(0u32, |gram, byte| gram << 8 | u32::from(*byte));
    // Fibonacci hashing: the upper bits are well mixed.
    let hash = (gram.wrapping_mul(0x9E37_79B1) >> 16) as usize % FILTER_BITS;
    (hash / 64, 1 << (hash % 64))
}

fn parts(text: &'static str) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let Some((name, after)) = after.split_once('}') else { break };
        if !before.is_empty() {
            parts.push(Part::Text(before));
        }
        parts.push(Part::Hole(match name {
            "limit" => Hole::Limit,
            "pid" => Hole::Pid,
            "pool" => Hole::Pool,
            "seconds" => Hole::Seconds,
            "signal" => Hole::Signal,
            "status" => Hole::Status,
            _ => Hole::Any,
        }));
        rest = after;
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest));
    }
    parts
}

/// What stood in the holes.
#[derive(Debug, Default)]
struct Captures {
    pid: u32,
    signal: Option<u32>,
    status: Option<u32>,
    duration_ms: Option<u64>,
    limit: Option<u64>,
    pool: String,
}

impl Captures {
    /// Whether `line` begins with `parts`; keeps what stands in the holes.
    fn take(&mut self, parts: &[Part], line: &str) -> bool {
        let Some((part, rest)) = parts.split_first() else { return true };
        match part {
            Part::Text(text) => line.strip_prefix(text).is_some_and(|line| self.take(rest, line)),
            Part::Hole(hole @ (Hole::Any | Hole::Pool)) => {
                let Some(Part::Text(next)) = rest.first() else {
                    let end = line.find(char::is_whitespace).unwrap_or(line.len());
                    self.keep(*hole, &line[..end]);
                    return true;
                };
                // The nearest place where the rest fits.
                line.match_indices(next).any(|(at, _)| {
                    let fits = self.take(rest, &line[at..]);
                    if fits {
                        self.keep(*hole, &line[..at]);
                    }
                    fits
                })
            }
            Part::Hole(hole) => {
                let end = line
                    .find(|c: char| !(c.is_ascii_alphanumeric() || c == '.'))
                    .unwrap_or(line.len());
                // A full stop that ends the sentence is not part of the number.
                let word = line[..end].trim_end_matches('.');
                let word = if *hole == Hole::Signal { word } else { digits(word) };
                self.keep(*hole, word) && self.take(rest, &line[word.len()..])
            }
        }
    }

    /// `false`: this cannot stand in such a hole.
    fn keep(&mut self, hole: Hole, text: &str) -> bool {
        match hole {
            Hole::Any => return true,
            Hole::Pool => self.pool = redact::line(text),
            Hole::Limit => self.limit = text.parse().ok(),
            Hole::Pid => match text.parse() {
                Ok(pid) => self.pid = pid,
                Err(_) => return false,
            },
            Hole::Seconds => self.duration_ms = milliseconds(text),
            Hole::Signal => self.signal = signal(text),
            Hole::Status => self.status = text.parse().ok(),
        }
        match hole {
            Hole::Limit => self.limit.is_some(),
            Hole::Seconds => self.duration_ms.is_some(),
            Hole::Signal => self.signal.is_some(),
            Hole::Status => self.status.is_some(),
            _ => true,
        }
    }

    fn event(self, pattern: &Pattern, line: &str) -> AppServerEvent {
        let mut event = pattern.event;
        // pm2 stops with SIGINT what it means to stop, and says so of every exit.
        let signal = self.signal.filter(|signal| pattern.server != "pm2" || *signal != SIGINT);
        if event == AppEvent::WorkerCrashed && self.status == Some(0) && signal.is_none() {
            event = AppEvent::WorkerRecycled;
        }
        AppServerEvent {
            server: pattern.server.to_owned(),
            event: event.into(),
            unit: String::new(),
            pid: self.pid,
            signal,
            status: self.status,
            duration_ms: self.duration_ms,
            limit: self.limit,
            pool: self.pool,
            text: redact::line(line),
        }
    }
}

/// The number at the start of a text.
fn digits(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    text[..end].trim_end_matches('.')
}

/// "61" or "2.480123" seconds.
fn milliseconds(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction: String = fraction.chars().chain("000".chars()).take(3).collect();
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(fraction.parse().ok()?)
}

const SIGINT: u32 = 2;

/// Signals by name, see signal(7); the numbers of x86 and ARM.
const SIGNALS: &[(&str, u32)] = &[
    ("SIGABRT", 6),
    ("SIGBUS", 7),
    ("SIGFPE", 8),
    ("SIGHUP", 1),
    ("SIGILL", 4),
    ("SIGINT", SIGINT),
    ("SIGKILL", 9),
    ("SIGPIPE", 13),
    ("SIGQUIT", 3),
    ("SIGSEGV", 11),
    ("SIGSYS", 31),
    ("SIGTERM", 15),
    ("SIGTRAP", 5),
    ("SIGUSR1", 10),
    ("SIGUSR2", 12),
    ("SIGXCPU", 24),
];

fn signal(text: &str) -> Option<u32> {
    let named = SIGNALS.iter().find(|(name, _)| *name == text).map(|(_, number)| *number);
    named.or_else(|| text.parse().ok().filter(|number| *number <= 64))
}

#[cfg(test)]
mod tests {
    use why502_proto::{Kind, fields_text};

    use super::*;

    #[track_caller]
    fn check(line: &str, expect: &str) {
        let said = match_line(line).map(|mut event| {
            event.text.clear();
            fields_text(&Kind::AppServerEvent(event))
        });
        assert_eq!(said.unwrap_or_default(), expect);
    }

    /// All patterns that match a line, wherever they begin.
    fn matches(line: &str) -> Vec<&'static str> {
        let fits = |parts: &[Part]| {
            line.char_indices().any(|(at, _)| Captures::default().take(parts, &line[at..]))
        };
        MATCHER.patterns.iter().filter(|(_, parts)| fits(parts)).map(|(p, _)| p.text).collect()
    }

    #[test]
    fn each_example_matches_its_pattern_and_no_other() {
        for pattern in TABLES.iter().copied().flatten() {
            assert!(!pattern.examples.is_empty(), "{} has no example", pattern.text);
            for example in pattern.examples {
                assert_eq!(matches(example), [pattern.text], "{example}");
                let event = match_line(example).unwrap_or_else(|| panic!("{example}"));
                assert_eq!(event.server, pattern.server, "{example}");
            }
        }
    }

    #[test]
    fn patterns_are_well_formed() {
        for pattern in TABLES.iter().copied().flatten() {
            let begin = pattern.text.split('{').next().unwrap();
            assert!(begin.len() >= GRAM, "{} begins with a hole", pattern.text);
            for hole in pattern.text.split('{').skip(1) {
                let name = hole.split('}').next().unwrap();
                let known = ["*", "limit", "pid", "pool", "seconds", "signal", "status"];
                assert!(known.contains(&name), "{}: {{{name}}}", pattern.text);
            }
        }
    }

    #[test]
    fn holes_are_filled() {
        check(
            "[24-Nov-2026 12:00:00] WARNING: [pool www] child 4127 exited on signal 11 (SIGSEGV - core dumped) after 12.345678 seconds from start",
            "server=php-fpm event=worker_crashed pid=4127 signal=11 pool=www",
        );
        check(
            "WARNING: [pool www] child 4127, script '/srv/a.php' (request: \"GET /a.php\") execution timed out (2.481532 sec), terminating",
            "server=php-fpm event=worker_timed_out pid=4127 duration_ms=2481 pool=www",
        );
        check(
            "[ERROR] Worker (pid:77) was sent SIGKILL! Perhaps out of memory?",
            "server=gunicorn event=worker_crashed pid=77 signal=9",
        );
        check(
            "*** uWSGI listen queue of socket \"127.0.0.1:8001\" (fd: 3) full !!! (101/100) ***",
            "server=uwsgi event=queue_full limit=100 pool=127.0.0.1:8001",
        );
        check(
            "worker=3 PID:812 timeout (61s > 60s), killing",
            "server=unicorn event=worker_timed_out pid=812 duration_ms=60000",
        );
    }

    #[test]
    fn an_orderly_end_is_no_crash() {
        check(
            "NOTICE: [pool www] child 31 exited with code 0 after 99.1 seconds from start",
            "server=php-fpm event=worker_recycled pid=31 status=0 pool=www",
        );
        check(
            "PM2      | App [api:0] exited with code [0] via signal [SIGINT]",
            "server=pm2 event=worker_recycled status=0 pool=api",
        );
        check(
            "PM2      | App [api:0] exited with code [0] via signal [SIGKILL]",
            "server=pm2 event=worker_crashed signal=9 status=0 pool=api",
        );
    }

    #[test]
    fn lines_of_applications_say_nothing() {
        for line in [
            "",
            "GET /pool/child HTTP/1.1",
            "[pool www] child x exited on signal 11",
            "Worker (pid:) was sent SIGKILL!",
            "the worker was sent home",
            "please raise max_children",
            "child 12 exited on signal 11",
            "äöü Wörker (pid:7) was sent SIGKILL",
        ] {
            check(line, "");
        }
    }

    #[test]
    fn secrets_in_a_matching_line_do_not_leave() {
        let line = "Error: listen EADDRINUSE: address already in use :::8080 password=hunter2";
        let event = match_line(line).unwrap();
        assert!(!event.text.contains("hunter2"), "{}", event.text);
    }

    proptest::proptest! {
        #[test]
        fn no_line_panics(line in "(\\[pool |Worker |DAMN ! |worker=)?.{0,80}") {
            let _ = match_line(&line);
        }
    }
}
