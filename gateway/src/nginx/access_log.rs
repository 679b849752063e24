//! One line of an access log, read by the `log_format` that wrote it.
//!
//! A format is literals and variables in turn; a value ends where the next literal begins. nginx escapes quotes in
//! values (`\x22`, with `escape=json` `\"`), so that quoted values end where they should.

use jiff::Timestamp;
use jiff::fmt::strtime;

use super::config::LogFormat;
use super::error_log;

/// nginx's predefined format.
pub const COMBINED: &str = "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent \
                            \"$http_referer\" \"$http_user_agent\"";

/// A format, ready to read lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Format {
    pieces: Vec<Piece>,
    json: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Variable(String),
}

/// What a line tells. "" where the format does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessLine {
    /// What the client was sent.
    pub status: u16,
    /// End of the request, microseconds since 1970; most formats have whole seconds.
    pub at_us: Option<i64>,
    /// Address of the client.
    pub client: String,
    /// Method.
    pub method: String,
    /// Path without query.
    pub path: String,
    /// `Host:`
    pub host: String,
    /// First name of the server block.
    pub server: Option<String>,
    /// The peer that was asked last; `Some("")`: none was.
    pub peer: Option<String>,
    /// What that peer answered; `Some(0)`: nothing.
    pub upstream_status: Option<u16>,
    /// Whether there was a connection to that peer.
    pub connected: Option<bool>,
    /// Whether that peer sent a header.
    pub header: Option<bool>,
    /// How long that peer took.
    pub response_ms: Option<u64>,
}

impl Format {
    /// Takes a format apart.
    pub fn new(format: &LogFormat) -> Self {
        let mut pieces = Vec::new();
        let mut rest = format.text.as_str();
        while let Some(at) = rest.find('$') {
            let (literal, variable) = rest.split_at(at);
            let name = variable[1..].trim_start_matches('{');
            let length =
                name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
            if !literal.is_empty() {
                pieces.push(Piece::Literal(literal.to_owned()));
            }
            pieces.push(Piece::Variable(name[..length].to_owned()));
            let after = &name[length..];
            rest = if variable.starts_with("${") {
                after.strip_prefix('}').unwrap_or(after)
            } else {
                after
            };
        }
        if !rest.is_empty() {
            pieces.push(Piece::Literal(rest.to_owned()));
        }
        Self { pieces, json: format.json }
    }

    /// The format that is in force where none is named.
    pub fn combined() -> Self {
        Self::new(&LogFormat { text: COMBINED.to_owned(), json: false })
    }

    /// It says for each request what the peer sent, so nothing has to be concluded from silence elsewhere.
    pub fn tells_header(&self) -> bool {
        self.pieces.contains(&Piece::Variable("upstream_header_time".to_owned()))
    }

    /// Reads a line; `None`: another format wrote it.
    pub fn read(&self, line: &str) -> Option<AccessLine> {
        let mut read = AccessLine::default();
        let mut rest = line;
        let mut pieces = self.pieces.iter().peekable();
        while let Some(piece) = pieces.next() {
            match piece {
                Piece::Literal(literal) => rest = rest.strip_prefix(literal.as_str())?,
                Piece::Variable(name) => {
                    let end = match pieces.peek() {
                        Some(Piece::Literal(next)) => self.end(rest, next)?,
                        // Two values without anything between them: nobody can tell where the first ends.
                        Some(Piece::Variable(_)) => return None,
                        None => rest.len(),
                    };
                    set(&mut read, name, &rest[..end]);
                    rest = &rest[end..];
                }
            }
        }
        (read.status != 0).then_some(read)
    }

    fn end(&self, text: &str, literal: &str) -> Option<usize> {
        let mut from = 0;
        loop {
            let at = from + text.get(from..)?.find(literal)?;
            let escapes = text[..at].bytes().rev().take_while(|byte| *byte == b'\\').count();
            if !self.json || escapes % 2 == 0 {
                return Some(at);
            }
            from = at + 1;
        }
    }
}

/// The predefined format, with anything behind it; what is written there as `name=value` with a usual name counts.
pub fn combined(line: &str) -> Option<AccessLine> {
    // Most lines of other formats end here.
    let open = line.find(" [")?;
    let close = open + line[open..].find("] \"")?;
    let mut read = AccessLine::default();
    set(&mut read, "remote_addr", line[..open].split(' ').next().unwrap_or(""));
    set(&mut read, "time_local", &line[open + 2..close]);
    read.at_us?;
    let rest = &line[close + 3..];
    let end = rest.find("\" ")?;
    set(&mut read, "request", &rest[..end]);
    let mut words = rest[end + 2..].splitn(3, ' ');
    set(&mut read, "status", words.next()?);
    let bytes = words.next()?;
    if !(100..600).contains(&read.status) || !bytes.bytes().all(|b| b.is_ascii_digit() || b == b'-')
    {
        return None;
    }
    for (name, value) in words.next().unwrap_or("").split(' ').filter_map(|w| w.split_once('=')) {
        let name = match name {
            "upstream" | "ua" | "upstream_addr" => "upstream_addr",
            "us" | "upstream_status" => "upstream_status",
            "uct" | "upstream_connect_time" => "upstream_connect_time",
            "uht" | "upstream_header_time" => "upstream_header_time",
            "urt" | "upstream_time" | "upstream_response_time" => "upstream_response_time",
            "host" | "server_name" => name,
            _ => continue,
        };
        set(&mut read, name, value.trim_matches(['"', ',']));
    }
    Some(read)
}

/// Takes the value of a variable.
pub(super) fn set(line: &mut AccessLine, name: &str, value: &str) {
    let path = |text: &str| text.split(['?', '#']).next().unwrap_or("").to_owned();
    match name {
        "status" => line.status = value.parse().unwrap_or(0),
        "remote_addr" => line.client = value.to_owned(),
        "request" => {
            let mut words = value.splitn(3, ' ');
            line.method = words.next().unwrap_or("").to_owned();
            line.path = path(words.next().unwrap_or(""));
        }
        "request_method" => line.method = value.to_owned(),
        "request_uri" => line.path = path(value),
        "uri" if line.path.is_empty() => line.path = value.to_owned(),
        "host" | "http_host" => line.host = value.to_owned(),
        "server_name" => line.server = Some(value.to_owned()),
        "time_local" => {
            line.at_us = strtime::parse("%d/%b/%Y:%H:%M:%S %z", value).ok().and_then(micros)
        }
        "time_iso8601" => {
            line.at_us = value.parse::<Timestamp>().ok().map(Timestamp::as_microsecond)
        }
        "msec" => line.at_us = seconds(value).map(|ms| i64::try_from(ms).unwrap_or(0) * 1000),
        "upstream_addr" => line.peer = Some(error_log::peer(last(value))),
        "upstream_status" => line.upstream_status = Some(last(value).parse().unwrap_or(0)),
        "upstream_connect_time" => line.connected = Some(seconds(last(value)).is_some()),
        "upstream_header_time" => line.header = Some(seconds(last(value)).is_some()),
        "upstream_response_time" => line.response_ms = seconds(last(value)),
        _ => {}
    }
}

fn micros(time: strtime::BrokenDownTime) -> Option<i64> {
    Some(time.to_timestamp().ok()?.as_microsecond())
}

/// Attempts are separated by ", ", internal redirects by " : "; "-" is none.
fn last(values: &str) -> &str {
    let value = values.rsplit([',', ' ']).find(|value| !value.is_empty() && *value != ":");
    value.filter(|value| *value != "-").unwrap_or("")
}

/// Milliseconds of "1.234".
fn seconds(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.')?;
    let part: u64 = part.get(..3)?.parse().ok()?;
    Some(whole.parse::<u64>().ok()?.checked_mul(1000)? + part)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn format(text: &str, json: bool) -> Format {
        Format::new(&LogFormat { text: text.to_owned(), json })
    }

    #[test]
    fn combined() {
        let line = r#"10.98.0.9 - bob [24/Nov/2026:13:46:09 +0000] "GET /api/x?token=1 HTTP/1.1" 502 157 "-" "curl \x22a""#;
        let read = format(COMBINED, false).read(line).unwrap();
        assert_eq!((read.status, read.at_us), (502, Some(1_795_527_969_000_000)));
        assert_eq!(
            (read.client.as_str(), read.method.as_str(), read.path.as_str()),
            ("10.98.0.9", "GET", "/api/x")
        );
        assert_eq!((read.peer, read.header), (None, None));
        assert_eq!(format(COMBINED, false).read("something else"), None);
    }

    #[test]
    fn upstream_variables_of_retries() {
        let format = format(
            "$time_iso8601 $host ${status} [$upstream_addr] [$upstream_status] [$upstream_header_time] $upstream_response_time",
            false,
        );
        assert!(format.tells_header());
        let read = format
            .read("2026-11-24T13:46:09+00:00 a.example 502 [10.0.0.1:80, 10.0.0.2:80] [502, 503] [-, 0.012] 0.001, 0.013")
            .unwrap();
        assert_eq!(read.peer.as_deref(), Some("10.0.0.2:80"));
        assert_eq!((read.upstream_status, read.header), (Some(503), Some(true)));
        assert_eq!((read.response_ms, read.at_us), (Some(13), Some(1_795_527_969_000_000)));
        let none = format.read("2026-11-24T13:46:09+00:00 a 200 [-] [-] [-] -").unwrap();
        assert_eq!((none.peer.as_deref(), none.header), (Some(""), Some(false)));
    }

    #[test]
    fn combined_with_upstream_behind_it() {
        let format = format(
            "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent upstream=$upstream_addr \
             upstream_status=$upstream_status upstream_time=$upstream_response_time",
            false,
        );
        let line = "10.98.0.9 - - [24/Nov/2026:13:46:09 +0000] \"GET / HTTP/1.1\" 502 5 upstream=10.98.0.2:8000 \
                    upstream_status=502 upstream_time=0.001";
        let read = format.read(line).unwrap();
        assert_eq!(
            (read.upstream_status, read.header, read.response_ms),
            (Some(502), None, Some(1))
        );
        assert_eq!((read.peer.as_deref(), read.path.as_str()), (Some("10.98.0.2:8000"), "/"));
    }

    #[test]
    fn json_with_escaped_quotes() {
        let format = format(
            r#"{"m":"$msec","ua":"$http_user_agent","r":"$request_uri","s":$status,"a":"$upstream_addr"}"#,
            true,
        );
        let line = r#"{"m":"1795527969.123","ua":"x\",\"r\":\"y\\","r":"/p?q","s":504,"a":"unix:/run/a.sock"}"#;
        let read = format.read(line).unwrap();
        assert_eq!((read.path.as_str(), read.status), ("/p", 504));
        assert_eq!(read.peer.as_deref(), Some("unix:/run/a.sock"));
        assert_eq!(read.at_us, Some(1_795_527_969_123_000));
    }

    proptest! {
        #[test]
        fn any_format_reads_any_line(text: String, line: String, json: bool) {
            format(&text, json).read(&line);
            format(COMBINED, json).read(&line);
        }
    }
}
