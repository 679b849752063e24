//! Lines of requests, read by the format that wrote them: section 8.2.6 "Custom log format" of the manual.
//!
//! A format is literals and values in turn; a value ends where the next literal begins. HAProxy writes quotes in
//! requests as `#22`, so that quoted values end where they should. Blanks around an empty value are written once,
//! so captured headers (`%hr`), which alone may be empty, take the blank before them along.

/// `option httplog`.
pub const HTTP: &str = "%ci:%cp [%tr] %ft %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %CC %CS %tsc %ac/%fc/%bc/%sc/%rc %sq/%bq %hr %hs \
     %{+Q}r";
/// `option httpslog`.
pub const HTTPS: &str = "%ci:%cp [%tr] %ft %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %CC %CS %tsc %ac/%fc/%bc/%sc/%rc %sq/%bq %hr %hs \
     %{+Q}r %[fc_err]/%[ssl_fc_err,hex]/%[ssl_c_err]/%[ssl_c_ca_err]/%[ssl_fc_is_resumed] %[ssl_fc_sni]/%sslv/%sslc";
/// `option tcplog`.
pub const TCP: &str = "%ci:%cp [%t] %ft %b/%s %Tw/%Tc/%Tt %B %ts %ac/%fc/%bc/%sc/%rc %sq/%bq";
/// `option httplog clf`.
pub const CLF: &str = "%{+Q}o %{-Q}ci - - [%trg] %r %ST %B \"\" \"\" %cp %ms %ft %b %s %TR %Tw %Tc %Tr %Ta %tsc %ac %fc %bc \
     %sc %rc %sq %bq %CC %CS %hrl %hsl";

/// Ends of values that are tried in one line.
const TRIES_MAX: u32 = 200;

/// A format, ready to read lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Format {
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    /// Its name; in quotes.
    Value(String, bool),
}

/// What a line of a request says; `None` where it, or its format, does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Request<'a> {
    /// Frontend, without the `~` of TLS.
    pub frontend: &'a str,
    /// Backend.
    pub backend: &'a str,
    /// Server, or why there is none: `<NOSRV>`.
    pub server: &'a str,
    /// Termination state, two or four letters.
    pub state: &'a str,
    /// What the client was sent; -1: nothing.
    pub status: Option<i32>,
    /// Waited in queues, milliseconds; -1: it did not get so far.
    pub queue: Option<i64>,
    /// Connected.
    pub connect: Option<i64>,
    /// Sent all headers of the response.
    pub response: Option<i64>,
    /// From the first byte (`%Ta`), or of the session (`%Tt`).
    pub total: Option<i64>,
    /// Bytes to the client.
    pub bytes: Option<u64>,
    /// Method.
    pub method: &'a str,
    /// Path, perhaps with a query.
    pub path: &'a str,
    /// `%si` and `%sp`.
    pub address: &'a str,
    /// Port of it.
    pub port: &'a str,
    /// `bc_err_str`, or whatever else names the error of the connection.
    pub error: &'a str,
    /// `%trg`, `%trl`: a time with a zone.
    pub stamp: &'a str,
    /// `%Ts`: seconds since 1970.
    pub seconds: Option<i64>,
    /// `%ms`
    pub milliseconds: Option<i64>,
}

impl Format {
    /// Takes a format apart.
    pub fn new(text: &str) -> Self {
        let mut pieces = Vec::new();
        let mut all_quoted = false;
        let mut literal = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('%') {
            literal.push_str(before);
            if let Some(left) = after.strip_prefix('%') {
                literal.push('%');
                rest = left;
                continue;
            }
            let (flags, name, left) = item(after);
            rest = left;
            let quoted = (all_quoted || flags.contains("+Q")) && !flags.contains("-Q");
            if name == "o" {
                all_quoted = quoted;
                // It writes nothing, nor the blank behind it.
                rest = rest.trim_start();
                continue;
            }
            if name.is_empty() {
                literal.push('%');
                continue;
            }
            if !literal.is_empty() {
                pieces.push(Piece::Literal(squeezed(&std::mem::take(&mut literal))));
            }
            pieces.push(Piece::Value(name.to_owned(), quoted));
        }
        literal.push_str(rest);
        if !literal.is_empty() {
            pieces.push(Piece::Literal(squeezed(&literal)));
        }
        Self { pieces }
    }

    /// It says how a session ended and where it went, so that something can be told.
    pub fn tells(&self) -> bool {
        let has = |wanted: &[&str]| {
            let is =
                |p: &Piece| matches!(p, Piece::Value(name, _) if wanted.contains(&name.as_str()));
            self.pieces.iter().any(is)
        };
        has(&["ts", "tsc"]) && has(&["b"]) && has(&["s"])
    }

    /// Reads a line; `None`: another format wrote it.
    pub fn read<'a>(&self, line: &'a str) -> Option<Request<'a>> {
        let mut tries = TRIES_MAX;
        let read = walk(&self.pieces, line.trim_end(), Request::default(), false, &mut tries)?;
        is_state(read.state).then_some(read)
    }
}

/// Reads what is left. `swallowed`: the blank before an empty value stood for the one that comes now.
fn walk<'a>(
    mut pieces: &[Piece],
    mut rest: &'a str,
    mut read: Request<'a>,
    mut swallowed: bool,
    tries: &mut u32,
) -> Option<Request<'a>> {
    while let Some((piece, behind)) = pieces.split_first() {
        pieces = behind;
        let (name, quoted) = match piece {
            Piece::Literal(literal) => {
                let blank = literal.strip_prefix(' ').filter(|_| swallowed);
                let literal = blank.unwrap_or(literal);
                match rest.strip_prefix(literal) {
                    Some(after) => rest = after,
                    None if rest.is_empty() && literal.trim().is_empty() => {}
                    None => return None,
                }
                swallowed = pieces.first().is_some_and(|next| skips(next, rest));
                pieces = &pieces[usize::from(swallowed)..];
                continue;
            }
            Piece::Value(name, quoted) => (name.as_str(), *quoted),
        };
        let next = match pieces.first() {
            Some(Piece::Literal(next)) => Some(next.as_str()),
            Some(Piece::Value(..)) => return None,
            None => None,
        };
        // Words of an expression may have blanks, so that what follows decides where they end.
        let open = !quoted && !name.bytes().all(|byte| byte.is_ascii_alphabetic());
        let Some(next) = next.filter(|_| open) else {
            let (value, left) = cut(name, quoted, rest, next)?;
            set(&mut read, name, value)?;
            rest = left;
            continue;
        };
        for (end, _) in rest.match_indices(next) {
            *tries = tries.checked_sub(1)?;
            set(&mut read, name, &rest[..end])?;
            if let Some(read) = walk(pieces, &rest[end..], read, swallowed, tries) {
                return Some(read);
            }
        }
        if !next.trim().is_empty() {
            return None;
        }
        set(&mut read, name, rest)?;
        rest = "";
    }
    rest.is_empty().then_some(read)
}

/// Whether captured headers come next and there are none.
fn skips(next: &Piece, rest: &str) -> bool {
    matches!(next, Piece::Value(name, false) if matches!(name.as_str(), "hr" | "hs"))
        && !rest.starts_with('{')
}

/// The value at the start of `rest`, and what follows it.
fn cut<'a>(
    name: &str,
    quoted: bool,
    rest: &'a str,
    next: Option<&str>,
) -> Option<(&'a str, &'a str)> {
    if let Some(inner) = rest.strip_prefix('"').filter(|_| quoted) {
        return inner.split_once('"');
    }
    if matches!(name, "hr" | "hs") {
        let end = rest.find('}')? + 1;
        return Some((&rest[..end], &rest[end..]));
    }
    let Some(next) = next else { return Some((rest, "")) };
    // Addresses of clients and servers may be IPv6: their port stands behind the last colon of the word.
    let word = rest.find(' ').unwrap_or(rest.len());
    let end = match (name, next) {
        ("ci" | "fi" | "si" | "bi", ":") => rest[..word].rfind(':')?,
        _ => match rest.find(next) {
            Some(end) => end,
            None if next.trim().is_empty() => rest.len(),
            None => return None,
        },
    };
    Some((&rest[..end], &rest[end..]))
}

/// Flags, name and what follows of an item behind its `%`; the name of an expression is `[...]` without brackets.
fn item(after: &str) -> (&str, &str, &str) {
    // `%(alias)ST` of 3.0.
    let after = after.strip_prefix('(').and_then(|a| a.split_once(')')).map_or(after, |(_, a)| a);
    let (flags, after) =
        after.strip_prefix('{').and_then(|a| a.split_once('}')).unwrap_or(("", after));
    if let Some(inner) = after.strip_prefix('[') {
        let (expression, left) = inner.split_once(']').unwrap_or((inner, ""));
        return (flags, expression, left);
    }
    let length = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
    let name = &after[..length];
    (flags, name, &after[length..])
}

/// HAProxy writes any number of blanks as one.
fn squeezed(literal: &str) -> String {
    let mut out = String::with_capacity(literal.len());
    for letter in literal.chars() {
        if letter != ' ' || !out.ends_with(' ') {
            out.push(letter);
        }
    }
    out
}

/// Whether it is a termination state.
fn is_state(text: &str) -> bool {
    let known =
        text.bytes().zip(["-LcCsSPRIDKU", "-RCHDLQT"]).all(|(b, set)| set.as_bytes().contains(&b));
    matches!(text.len(), 2 | 4) && known && text.is_ascii()
}

/// `None`: no such value stands there.
fn set<'a>(read: &mut Request<'a>, name: &str, value: &'a str) -> Option<()> {
    // With `option logasap` times and bytes are so far.
    let number = || value.trim_start_matches('+').parse::<i64>().ok();
    match name {
        "ft" | "f" => read.frontend = value.trim_end_matches('~'),
        "b" => read.backend = value,
        "s" => read.server = value,
        "ts" | "tsc" => read.state = value,
        "ST" => read.status = Some(i32::try_from(number()?).ok()?),
        "Tw" => read.queue = Some(number()?),
        "Tc" => read.connect = Some(number()?),
        "Tr" => read.response = Some(number()?),
        "Ta" | "Tt" => read.total = Some(number()?),
        "B" => read.bytes = Some(u64::try_from(number()?).ok()?),
        "TR" | "Tq" | "cp" | "ac" | "fc" | "bc" | "sc" | "rc" | "sq" | "bq" => drop(number()?),
        "r" => {
            let mut words = value.splitn(3, ' ');
            read.method = words.next().unwrap_or("");
            read.path = words.next().unwrap_or("");
        }
        "HM" => read.method = value,
        "HP" | "HPO" | "HU" => read.path = value,
        "si" => read.address = value,
        "sp" => read.port = value,
        "trg" | "trl" => read.stamp = value,
        "Ts" => read.seconds = Some(number()?),
        "ms" => read.milliseconds = Some(number()?),
        "bc_err_str" => read.error = value,
        _ => {}
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_formats_that_have_names() {
        // As haproxy 2.6.12 wrote them.
        let http = Format::new(HTTP);
        let line = "127.0.0.1:57998 [27/Nov/2026:22:23:49.510] in~ refused/s1 0/0/-1/-1/1000 503 217 - - SC-- 1/1/0/0/1 \
                    0/0 \"GET /refused?token=1 HTTP/1.1\"";
        let read = http.read(line).unwrap();
        assert_eq!((read.frontend, read.backend, read.server), ("in", "refused", "s1"));
        assert_eq!((read.state, read.status, read.connect), ("SC--", Some(503), Some(-1)));
        assert_eq!((read.method, read.path, read.total), ("GET", "/refused?token=1", Some(1000)));
        let captured = line.replace("0/0 \"", "0/0 {curl/7.88 x|a} {} \"");
        assert_eq!(http.read(&captured).unwrap().path, "/refused?token=1");
        let one = line.replace("0/0 \"", "0/0 {curl/7.88 x|a} \"").replace("127.0.0.1", "::1");
        assert_eq!(http.read(&one).unwrap().path, "/refused?token=1");
        let tcp = "127.0.0.1:51308 [27/Nov/2026:22:24:31.643] tcpref tcpref/s1 1/-1/1000 0 SC 2/1/0/0/1 0/0";
        assert_eq!(Format::new(TCP).read(tcp).unwrap().state, "SC");
        assert!(Format::new(TCP).read(line).is_none() && http.read(tcp).is_none());
        let https = "127.0.0.1:33908 [27/Nov/2026:22:24:12.770] https refused/s1 0/0/-1/-1/1000 503 217 - - SC-- 1/1/0/0/1 \
                     0/0 \"GET /refused?token=1 HTTP/1.1\" 0/-/-/-/0 -/-/-";
        assert_eq!(Format::new(HTTPS).read(https).unwrap().status, Some(503));
        assert!(http.read(https).is_none() && Format::new(HTTPS).read(line).is_none());
        let clf = "127.0.0.1 - - [27/Nov/2026:22:24:14 +0000] \"GET /refused?token=1 HTTP/1.1\" 503 217 \"\" \"\" 59734 \
                   908 \"clf\" \"refused\" \"s1\" 0 0 -1 -1 1001 SC-- 1 1 0 0 1 0 0 \"\" \"\" ";
        let read = Format::new(CLF).read(clf).unwrap();
        assert_eq!(
            (read.backend, read.path, read.milliseconds),
            ("refused", "/refused?token=1", Some(908))
        );
    }

    #[test]
    fn one_that_somebody_wrote() {
        let format = Format::new(
            "%ci:%cp [%trg] %ft %b/%s %TR/%Tw/%Tc/%Tr/%Ta %ST %B %tsc %rc %{+Q}r %si:%sp \
             err=%[bc_err]/%[bc_err_str] %Ts.%ms 100%%",
        );
        let line = "127.0.0.1:59978 [27/Nov/2026:22:24:00 +0000] fmt refused/s1 0/0/-1/-1/1000 503 217 SC-- 1 \
                    \"GET /refused?token=1 HTTP/1.1\" 127.0.0.1:9000 err=34/SSL handshake failure 1795818240.994 100%";
        let read = format.read(line).unwrap();
        assert!(format.tells());
        assert_eq!((read.address, read.port), ("127.0.0.1", "9000"));
        assert_eq!((read.error, read.seconds), ("SSL handshake failure", Some(1_795_818_240)));
        assert!(!Format::new("%ci %ST").tells());
    }

    proptest! {
        #[test]
        fn any_format_reads_any_line(text: String, odd in "[%{}+Qa-z\\[\\] ]{0,30}", line: String) {
            Format::new(&text).read(&line);
            Format::new(&odd).read(&line);
            for format in [HTTP, TCP, CLF] {
                Format::new(format).read(&line);
            }
        }

        #[test]
        fn any_end_is_read(cut in 0_usize..160, end in ".{0,20}") {
            let line = "::1:5 [27/Nov/2026:22:23:49.510] in b/s1 0/0/-1/-1/1000 503 217 - - SC-- 1/1/0/0/1 0/0 {a|b} \"GET /r H\"";
            let line = format!("{}{end}", &line[..cut.min(line.len())]);
            for format in [HTTP, HTTPS, TCP, CLF] {
                Format::new(format).read(&line);
            }
        }
    }
}
