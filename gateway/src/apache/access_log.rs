//! One line of an access log, read by the `LogFormat` that wrote it.
//!
//! Page: <https://httpd.apache.org/docs/2.4/mod/mod_log_config.html#formats>. A value ends where
//! the next literal begins; httpd escapes quotes and control characters in values (`\"`, `\x0a`).

use jiff::fmt::strtime;

/// A format, ready to read lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Format {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    /// `%{argument}X`
    Value(char, String),
}

/// What a line tells. "" where the format does not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AccessLine {
    /// What the client was sent.
    pub status: u16,
    /// Begin of the request, microseconds since 1970; most formats have whole seconds.
    pub begin_us: Option<i64>,
    /// Its second in local time, as error logs write it: "Nov 27 21:58:41 2026".
    pub second: Option<jiff::civil::DateTime>,
    /// How long it took, microseconds.
    pub took_us: Option<i64>,
    /// Address of the client.
    pub client: String,
    /// Method.
    pub method: String,
    /// Path without query.
    pub path: String,
    /// Name of the host, with the port where the format has it: "shop.example:443".
    pub host: String,
    /// `%L`: id of the request's lines in the error log; `Some(false)`: it has none.
    pub complained: Option<bool>,
    /// `%{proxy-source-port}n`: a connection to an upstream was made.
    pub connected: Option<bool>,
    /// `%{BALANCER_WORKER_NAME}e`: URL of the peer.
    pub worker: String,
}

impl Format {
    /// Takes a format apart: `%[<>][!200,304][{argument}]X`.
    pub fn new(format: &str) -> Self {
        let mut pieces = Vec::new();
        let mut literal = String::new();
        let mut chars = format.chars().peekable();
        while let Some(c) = chars.next() {
            if c == '\\' {
                match chars.next() {
                    Some('t') => literal.push('\t'),
                    Some('n') => literal.push('\n'),
                    Some(other) => literal.push(other),
                    None => {}
                }
                continue;
            }
            if c != '%' {
                literal.push(c);
                continue;
            }
            if chars.peek() == Some(&'%') {
                chars.next();
                literal.push('%');
                continue;
            }
            let mut argument = String::new();
            let mut letter = ' ';
            while let Some(c) = chars.next() {
                match c {
                    '<' | '>' | '!' | ',' | '0'..='9' => {}
                    '{' => argument = chars.by_ref().take_while(|c| *c != '}').collect(),
                    // `%^ti`: two letters behind it
                    '^' => {}
                    _ => {
                        letter = c;
                        break;
                    }
                }
            }
            if !literal.is_empty() {
                pieces.push(Piece::Literal(std::mem::take(&mut literal)));
            }
            pieces.push(Piece::Value(letter, argument));
        }
        if !literal.is_empty() {
            pieces.push(Piece::Literal(literal));
        }
        Self { pieces }
    }

    /// Reads a line; `None`: another format wrote it.
    pub fn read(&self, line: &str) -> Option<AccessLine> {
        let mut read = AccessLine::default();
        let mut rest = line;
        let mut pieces = self.pieces.iter().peekable();
        while let Some(piece) = pieces.next() {
            match piece {
                Piece::Literal(literal) => rest = rest.strip_prefix(literal.as_str())?,
                Piece::Value(letter, argument) => {
                    let end = match pieces.peek() {
                        Some(Piece::Literal(next)) => end_of(rest, *letter, next)?,
                        // Two values without anything between them: nobody can tell where the first
                        // ends.
                        Some(Piece::Value(..)) => return None,
                        None => rest.len(),
                    };
                    set(&mut read, *letter, argument, &rest[..end]);
                    rest = &rest[end..];
                }
            }
        }
        (rest.is_empty() && (100..600).contains(&read.status)).then_some(read)
    }
}

/// Where a value ends that `literal` follows.
fn end_of(text: &str, letter: char, literal: &str) -> Option<usize> {
    // A time has blanks of its own, and its own brackets.
    let mut from = if letter == 't' && text.starts_with('[') { text.find(']')? } else { 0 };
    loop {
        let at = from + text.get(from..)?.find(literal)?;
        let escapes = text[..at].bytes().rev().take_while(|byte| *byte == b'\\').count();
        if escapes % 2 == 0 {
            return Some(at);
        }
        from = at + 1;
    }
}

fn set(read: &mut AccessLine, letter: char, argument: &str, value: &str) {
    let present = value != "-" && !value.is_empty();
    match (letter, argument) {
        ('s', _) => read.status = value.parse().unwrap_or(0),
        ('h' | 'a', "") => value.clone_into(&mut read.client),
        ('t', "") => {
            let stamp = value.trim_start_matches('[').trim_end_matches(']');
            if let Ok(time) = strtime::parse("%d/%b/%Y:%H:%M:%S %z", stamp) {
                read.begin_us = time.to_timestamp().ok().map(|at| at.as_microsecond());
                read.second = time.to_datetime().ok();
            }
        }
        ('t', "usec" | "begin:usec") => read.begin_us = value.parse().ok(),
        ('t', "msec" | "begin:msec") => read.begin_us = times(value, 1000),
        ('t', "sec" | "begin:sec") => read.begin_us = times(value, 1_000_000),
        ('D', _) | ('T', "us") => read.took_us = value.parse().ok(),
        ('T', "ms") => read.took_us = times(value, 1000),
        ('T', _) if read.took_us.is_none() => read.took_us = times(value, 1_000_000),
        ('r', _) => {
            let mut words = value.split(' ');
            words.next().unwrap_or("").clone_into(&mut read.method);
            path(words.next().unwrap_or("")).clone_into(&mut read.path);
        }
        ('m', _) => value.clone_into(&mut read.method),
        ('U', _) => path(value).clone_into(&mut read.path),
        ('v' | 'V', _) if present => {
            let port = read.host.strip_prefix(':').map(str::to_owned);
            read.host = port.map_or_else(|| value.to_owned(), |port| format!("{value}:{port}"));
        }
        ('p', "" | "canonical") if !read.host.is_empty() && !read.host.contains(':') => {
            read.host = format!("{}:{value}", read.host);
        }
        ('i', name) if name.eq_ignore_ascii_case("host") && read.host.is_empty() && present => {
            value.clone_into(&mut read.host);
        }
        ('L', _) => read.complained = Some(present),
        ('n', "proxy-source-port") => read.connected = Some(present),
        ('e', "BALANCER_WORKER_NAME") if present => value.clone_into(&mut read.worker),
        _ => {}
    }
}

fn times(value: &str, unit: i64) -> Option<i64> {
    value.parse::<i64>().ok()?.checked_mul(unit)
}

fn path(uri: &str) -> &str {
    uri.split(['?', '#']).next().unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    const VHOST: &str = "%v:%p %h %l %u %t \"%r\" %>s %O \"%{Referer}i\" \"%{User-Agent}i\"";

    #[test]
    fn vhost_combined() {
        let line = Format::new(VHOST)
            .read(
                "gw.example:80 127.0.0.1 - - [27/Nov/2026:21:58:41 +0000] \"GET /refused/x?token=1 HTTP/1.1\" 503 544 \
                 \"-\" \"curl/7.88.1 \\\" 200 1\"",
            )
            .unwrap();
        assert_eq!((line.status, line.host.as_str()), (503, "gw.example:80"));
        assert_eq!((line.method.as_str(), line.path.as_str()), ("GET", "/refused/x"));
        assert_eq!(line.begin_us, Some(1_795_816_721_000_000));
    }

    #[test]
    fn json_and_what_proves_a_relayed_answer() {
        let format = Format::new(
            r#"{"t":"%{msec}t","h":"%a","m":"%m","u":"%U","s":%>s,"d":%D,"l":"%L","p":"%{proxy-source-port}n"}"#,
        );
        let line = format.read(
            r#"{"t":"1795816721500","h":"::1","m":"GET","u":"/a","s":503,"d":702,"l":"-","p":"4711"}"#,
        );
        let line = line.unwrap();
        assert_eq!((line.begin_us, line.took_us), (Some(1_795_816_721_500_000), Some(702)));
        assert_eq!((line.complained, line.connected), (Some(false), Some(true)));
    }

    #[test]
    fn lines_of_others() {
        let format = Format::new(VHOST);
        assert_eq!(format.read(""), None);
        assert_eq!(format.read("127.0.0.1 - - [x] \"GET / HTTP/1.1\" 200 1"), None);
        assert_eq!(Format::new("%h%u %s").read("a b 200"), None);
        assert_eq!(Format::new("%").read("x"), None);
    }
}
