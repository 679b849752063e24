//! One line of the error log, cut into its parts.
//!
//! `YYYY/MM/DD HH:MM:SS [level] pid#tid: *conn MESSAGE while ACTION, client: C, server: S, request: "R", upstream: "U",
//! host: "H", referrer: "F"` (`ngx_http_log_error_handler`). The request comes from outside and is not escaped, so
//! parts are found from the left, each ending where nginx's own text must go on. nginx cuts a line at 2048 bytes: the
//! last parts may be missing.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;

use super::pass::plain;

/// A line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorLine<'a> {
    /// "2026/11/24 13:46:09", local time; "": something between took it off.
    pub stamp: &'a str,
    /// "error", "crit", "alert", "warn", ...
    pub level: &'a str,
    /// Process that wrote it.
    pub pid: u32,
    /// Up to " while ", or to the first part.
    pub message: &'a str,
    /// "connecting to upstream", or "".
    pub action: &'a str,
    /// Address of the client.
    pub client: &'a str,
    /// First name of the server block.
    pub server: &'a str,
    /// Of the request line.
    pub method: &'a str,
    /// Of the request line, without query.
    pub path: &'a str,
    /// "http://10.0.0.7:8080/uri", or "".
    pub upstream: &'a str,
    /// `Host:` as it was sent.
    pub host: &'a str,
}

/// What nginx does when it speaks to an upstream.
const ACTIONS: [&str; 8] = [
    "connecting to upstream",
    "SSL handshaking to upstream",
    "sending request to upstream",
    "reading response header from upstream",
    "reading upstream",
    "sending to client",
    "proxying upgraded connection",
    "proxying connection",
];

/// `ngx_log.c`
const LEVELS: [&str; 8] = ["emerg", "alert", "crit", "error", "warn", "notice", "info", "debug"];

/// Reads a line; `None`: it is none of nginx's, or the continuation of one.
pub fn parse(line: &str) -> Option<ErrorLine<'_>> {
    let (stamp, rest) = stamped(line).unwrap_or(("", line));
    let (level, rest) = rest.strip_prefix('[')?.split_once("] ")?;
    if !LEVELS.contains(&level) {
        return None;
    }
    let (pid, rest) = rest.split_once('#')?;
    let (_, rest) = rest.split_once(": ")?;
    let text = match rest.strip_prefix('*').and_then(|rest| rest.split_once(' ')) {
        Some((number, text)) if number.bytes().all(|byte| byte.is_ascii_digit()) => text,
        _ => rest,
    };
    let mut parsed = ErrorLine { stamp, level, pid: pid.parse().ok()?, ..ErrorLine::default() };
    let parts = message(text, &mut parsed);
    context(parts, &mut parsed);
    Some(parsed)
}

fn stamped(line: &str) -> Option<(&str, &str)> {
    let (stamp, rest) = line.split_at_checked(19)?;
    let shape = stamp.bytes().zip(b"0000/00/00 00:00:00").all(|(byte, like)| match like {
        b'0' => byte.is_ascii_digit(),
        _ => byte == *like,
    });
    Some((stamp, rest.strip_prefix(' ').filter(|_| shape)?))
}

/// Microseconds since 1970 of a stamp.
pub fn micros(stamp: &str, zone: &TimeZone) -> Option<i64> {
    let number = |from: usize, to: usize| stamp.get(from..to)?.parse::<i8>().ok();
    let year = stamp.get(0..4)?.parse().ok()?;
    let (month, day) = (number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    let time = DateTime::new(year, month, day, hour, minute, second.min(59), 0).ok()?;
    Some(zone.to_ambiguous_timestamp(time).compatible().ok()?.as_microsecond())
}

/// Takes message and action; returns what follows ", client: ".
fn message<'a>(text: &'a str, parsed: &mut ErrorLine<'a>) -> &'a str {
    let (head, parts) = match text.rfind(", client: ").filter(|_| !text.contains(", request: \"")) {
        Some(at) => (&text[..at], &text[at + ", client: ".len()..]),
        None => text.split_once(", client: ").unwrap_or((text, "")),
    };
    parsed.message = head;
    for action in ACTIONS {
        if let Some(message) = head.strip_suffix(action).and_then(|m| m.strip_suffix(" while ")) {
            (parsed.message, parsed.action) = (message, action);
        }
    }
    parts
}

fn context<'a>(parts: &'a str, parsed: &mut ErrorLine<'a>) {
    let (client, rest) = parts.split_once(", ").unwrap_or((parts, ""));
    parsed.client = client;
    let Some(rest) = rest.strip_prefix("server: ") else {
        stream_context(rest, parsed);
        return;
    };
    let Some((server, rest)) = rest.split_once(", request: \"") else {
        let (server, rest) = rest.split_once(", ").unwrap_or((rest, ""));
        parsed.server = server;
        stream_context(rest, parsed);
        return;
    };
    parsed.server = server;
    // A request line has no spaces in its path, and ends with its version.
    let end = rest.find(" HTTP/").and_then(|at| Some(at + rest[at..].find('"')?));
    let end = end.or_else(|| rest.find("\", ")).unwrap_or(rest.len());
    let request = rest[..end].trim_end_matches('"');
    let mut words = request.splitn(3, ' ');
    parsed.method = words.next().unwrap_or("");
    parsed.path = words.next().unwrap_or("").split(['?', '#']).next().unwrap_or("");
    let rest = rest.get(end + 1..).unwrap_or("");
    let rest = rest
        .strip_prefix(", subrequest: \"")
        .map_or(rest, |sub| sub.find("\", ").and_then(|at| sub.get(at + 1..)).unwrap_or(""));
    let mut rest = rest;
    if let Some(upstream) = rest.strip_prefix(", upstream: \"") {
        let end = upstream.find("\", host: \"").or_else(|| upstream.find("\", referrer: \""));
        let end = end.unwrap_or_else(|| upstream.trim_end_matches('"').len());
        parsed.upstream = &upstream[..end];
        rest = upstream.get(end + 1..).unwrap_or("");
    }
    if let Some(host) = rest.strip_prefix(", host: \"") {
        parsed.host = host.split('"').next().unwrap_or("");
    }
}

/// `server: 0.0.0.0:3306, upstream: "10.0.0.7:3306", bytes from/to client:0/0, ...` of the stream module.
fn stream_context<'a>(rest: &'a str, parsed: &mut ErrorLine<'a>) {
    if let Some((_, upstream)) = rest.split_once("upstream: \"") {
        parsed.upstream = upstream.split('"').next().unwrap_or("");
    }
}

/// The peer in "http://10.0.0.7:8080/uri", "fastcgi://unix:/run/php.sock:", "http://unix:/run/a.sock:/uri", and, where
/// none was chosen, "http://backend/uri": an address, or the name of a group.
pub fn peer(upstream: &str) -> String {
    let rest = upstream.split_once("://").map_or(upstream, |(_, rest)| rest);
    if let Some(path) = rest.strip_prefix("unix:") {
        return plain(path.find(':').map_or(rest, |at| &rest[..at + "unix:".len()]));
    }
    rest.split(['/', '?']).next().unwrap_or("").to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn refused() {
        let line = parse(
            "2026/11/24 13:46:09 [error] 812#812: *17 connect() failed (111: Connection refused) while connecting to \
             upstream, client: 10.98.0.9, server: shop.example, request: \"GET /api/x?token=1 HTTP/1.1\", upstream: \
             \"http://10.0.0.7:8080/api/x?token=1\", host: \"shop.example:8081\", referrer: \"http://a/\"",
        );
        let expected = ErrorLine {
            stamp: "2026/11/24 13:46:09",
            level: "error",
            pid: 812,
            message: "connect() failed (111: Connection refused)",
            action: "connecting to upstream",
            client: "10.98.0.9",
            server: "shop.example",
            method: "GET",
            path: "/api/x",
            upstream: "http://10.0.0.7:8080/api/x?token=1",
            host: "shop.example:8081",
        };
        assert_eq!(line, Some(expected));
        assert_eq!(peer(expected.upstream), "10.0.0.7:8080");
    }

    #[test]
    fn a_request_cannot_forge_the_parts_behind_it() {
        let line = parse(
            "2026/11/24 13:46:09 [error] 8#8: *1 connect() failed (111: Connection refused) while connecting to upstream, \
             client: ::1, server: , request: \"GET /\",upstream:\"http://6.6.6.6:1/ HTTP/1.1\", upstream: \
             \"http://127.0.0.1:1/\",upstream:\"http://6.6.6.6:1/\", host: \"a\"",
        )
        .unwrap();
        assert_eq!(peer(line.upstream), "127.0.0.1:1");
        assert_eq!((line.server, line.host), ("", "a"));
    }

    #[test]
    fn peers() {
        assert_eq!(
            peer("fastcgi://unix:/run/php/php8.2-fpm.sock:"),
            "unix:/run/php/php8.2-fpm.sock"
        );
        assert_eq!(peer("http://unix:/run/a.sock:/x:y"), "unix:/run/a.sock");
        assert_eq!(peer("http://unix:/run/a.sock"), "unix:/run/a.sock");
        assert_eq!(peer("http://[::1]:8080/"), "[::1]:8080");
        assert_eq!(peer("http://backend/api"), "backend");
        assert_eq!(peer("10.0.0.7:3306"), "10.0.0.7:3306");
    }

    #[test]
    fn not_a_line_of_nginx() {
        assert_eq!(parse(""), None);
        assert_eq!(parse("PHP message: PHP Warning"), None);
        assert_eq!(parse("2026/11/24 13:46:09"), None);
        assert_eq!(parse("2026/11/24T13:46:09 [error] 8#8: x"), None);
    }

    #[test]
    fn without_a_stamp() {
        let line = parse("[error] 12#12: *1 connect() failed (111: Connection refused) while connecting to upstream").unwrap();
        assert_eq!((line.stamp, line.pid, line.action), ("", 12, "connecting to upstream"));
        assert_eq!(parse("[error] 12: x"), None);
        assert_eq!(parse("[proxy:error] [pid 12#12: x] y"), None);
    }

    #[test]
    fn times() {
        let us = micros("2026/11/24 13:46:09", &TimeZone::UTC);
        assert_eq!(us, Some(1_795_527_969_000_000));
        assert_eq!(micros("2026/13/24 13:46:09", &TimeZone::UTC), None);
    }

    #[test]
    fn without_a_connection() {
        let line =
            parse("2026/11/24 13:46:09 [alert] 8#8: worker process 9 exited on signal 11").unwrap();
        assert_eq!(line.message, "worker process 9 exited on signal 11");
        assert_eq!((line.action, line.client), ("", ""));
    }

    proptest! {
        #[test]
        fn any_text_is_read(text: String) {
            parse(&text);
            peer(&text);
        }

        #[test]
        fn any_tail_is_read(text in "(, (client|server|upstream|host): |\"| while |connecting to upstream|, request: \"|/| HTTP/|é|unix:){0,40}") {
            parse(&format!("2026/11/24 13:46:09 [error] 8#8: *1 x{text}"));
        }
    }
}
