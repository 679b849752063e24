//! One line of Traefik's access log or of its own log, in its common or its JSON form (doc.traefik.io, "Logs").

use jiff::Timestamp;
use jiff::fmt::strtime;

/// A request, as the access log has it. "" where the line does not tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Access {
    /// End of the request, microseconds since 1970.
    pub(super) at_us: Option<i64>,
    pub(super) method: String,
    pub(super) path: String,
    /// What the client was sent.
    pub(super) status: u16,
    /// What came from the service, or from what stood in for it, and its size.
    pub(super) origin: u16,
    pub(super) size: Option<u64>,
    pub(super) router: String,
    /// "http://10.0.0.7:8080"; "": no server was chosen.
    pub(super) url: String,
    pub(super) took_ms: Option<u64>,
    pub(super) origin_ms: Option<u64>,
}

/// Something that Traefik said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) at_us: Option<i64>,
    pub(super) message: String,
    pub(super) error: String,
    pub(super) service: String,
    pub(super) target: String,
}

/// What a line is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Access(Access),
    Said(Said),
}

/// Reads a line; `None`: it is none of Traefik's.
pub(super) fn parse(line: &str) -> Option<Entry> {
    // Where its output is no file it writes in colours, even to the journal.
    let plain;
    let line = if line.contains('\u{1b}') {
        plain = without_colours(line);
        plain.as_str()
    } else {
        line
    };
    if line.starts_with('{') {
        return json(line);
    }
    said(line).map(Entry::Said).or_else(|| common(line).map(Entry::Access))
}

fn without_colours(line: &str) -> String {
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\u{1b}[") {
        out.push_str(before);
        let end = after.find(|c: char| !c.is_ascii_digit() && c != ';').unwrap_or(after.len());
        rest = after.get(end + 1..).unwrap_or("");
    }
    out.push_str(rest);
    out
}

fn micros(text: &str) -> Option<i64> {
    Some(text.parse::<Timestamp>().ok()?.as_microsecond())
}

/// `HOST - USER [DATE] "REQUEST" STATUS SIZE "REFERER" "AGENT" NUMBER "ROUTER" "URL" 0ms`: what a client is free in stands
/// between, so it is read from both ends.
fn common(line: &str) -> Option<Access> {
    let (rest, took) = line.strip_suffix("ms")?.rsplit_once(' ')?;
    let took: u64 = took.parse().ok()?;
    let (rest, url) = rest.strip_suffix('"')?.rsplit_once(" \"")?;
    let (rest, router) = rest.strip_suffix('"')?.rsplit_once(" \"")?;
    let (_, number) = rest.rsplit_once(' ')?;
    number.parse::<u64>().ok()?;
    let (_, rest) = rest.split_once(" [")?;
    let (date, rest) = rest.split_once("] \"")?;
    let end = rest.find(" HTTP/").and_then(|at| Some(at + rest[at..].find("\" ")?))?;
    let mut request = rest[..end].splitn(3, ' ');
    let mut numbers = rest[end + 2..].split(' ');
    let status = numbers.next()?.parse().ok()?;
    let at = strtime::parse("%d/%b/%Y:%H:%M:%S %z", date).ok()?.to_timestamp().ok()?;
    let took_us = i64::try_from(took).ok()?.checked_mul(1000)?;
    Some(Access {
        at_us: at.as_microsecond().checked_add(took_us),
        method: request.next()?.to_owned(),
        path: request.next()?.to_owned(),
        status,
        origin: status,
        size: numbers.next()?.parse().ok(),
        router: nothing(router),
        url: nothing(url),
        took_ms: Some(took),
        origin_ms: None,
    })
}

fn nothing(text: &str) -> String {
    if text == "-" { String::new() } else { text.to_owned() }
}

/// `2026-11-27T21:42:32Z ERR [FILE:LINE > ]MESSAGE NAME=VALUE NAME="VALUE"`
fn said(line: &str) -> Option<Said> {
    let (stamp, rest) = line.split_once(' ')?;
    let at_us = micros(stamp)?;
    let (level, rest) = rest.split_once(' ')?;
    if !matches!(level, "TRC" | "DBG" | "INF" | "WRN" | "ERR" | "FTL" | "PNC") {
        return None;
    }
    let rest = match rest.split_once(" > ") {
        Some((place, rest)) if !place.contains(' ') && place.contains(".go:") => rest,
        _ => rest,
    };
    let mut said = Said { at_us: Some(at_us), message: rest.to_owned(), ..Said::default() };
    for (name, slot) in [
        ("error", &mut said.error),
        ("serviceName", &mut said.service),
        ("targetURL", &mut said.target),
    ] {
        *slot = field(rest, name).unwrap_or_default();
    }
    let end = ["error", "entryPointName", "providerName", "routerName", "serviceName"]
        .iter()
        .filter_map(|name| rest.find(&format!(" {name}=")))
        .min();
    said.message.truncate(end.unwrap_or(rest.len()));
    Some(said)
}

/// The value of ` NAME=value` or ` NAME="quoted"`.
fn field(text: &str, name: &str) -> Option<String> {
    let begin = text.find(&format!(" {name}="))? + name.len() + 2;
    let rest = &text[begin..];
    let Some(quoted) = rest.strip_prefix('"') else {
        return Some(rest.split(' ').next().unwrap_or("").to_owned());
    };
    let mut out = String::new();
    let mut escaped = false;
    for c in quoted.chars() {
        match (c, escaped) {
            ('\\', false) => escaped = true,
            ('"', false) => break,
            (c, _) => {
                out.push(c);
                escaped = false;
            }
        }
    }
    Some(out)
}

fn json(line: &str) -> Option<Entry> {
    let json: serde_json::Value = serde_json::from_str(line).ok()?;
    let text = |name: &str| {
        let value = json.get(name).and_then(serde_json::Value::as_str);
        nothing(value.unwrap_or(""))
    };
    let number = |name: &str| json.get(name).and_then(serde_json::Value::as_u64);
    let status = |name: &str| number(name).and_then(|status| u16::try_from(status).ok());
    if let Some(down) = status("DownstreamStatus").or_else(|| status("OriginStatus")) {
        // Nanoseconds.
        let millis = |name: &str| number(name).map(|ns| ns / 1_000_000);
        let took_us = i64::try_from(number("Duration").unwrap_or(0) / 1000).ok()?;
        let start = micros(&text("StartUTC")).or_else(|| micros(&text("StartLocal")));
        return Some(Entry::Access(Access {
            at_us: start
                .map(|start| start.saturating_add(took_us))
                .or_else(|| micros(&text("time"))),
            method: text("RequestMethod"),
            path: text("RequestPath"),
            status: down,
            origin: status("OriginStatus").filter(|status| *status != 0).unwrap_or(down),
            // Without a service behind it there is no origin.
            size: match number("OriginContentSize") {
                Some(size) if status("OriginStatus") != Some(0) => Some(size),
                _ => number("DownstreamContentSize"),
            },
            router: text("RouterName"),
            url: text("ServiceURL"),
            took_ms: millis("Duration"),
            origin_ms: millis("OriginDuration"),
        }));
    }
    let message = text("message");
    (!message.is_empty() && json.get("level").is_some()).then(|| {
        Entry::Said(Said {
            at_us: micros(&text("time")),
            message,
            error: text("error"),
            service: text("serviceName"),
            target: text("targetURL"),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_access() {
        let line = "127.0.0.1 - - [27/Nov/2026:21:42:16 +0000] \"GET /refused?token=1 HTTP/1.1\" 502 11 \"-\" \"a\" 3 \"x\" \"y\" \
            4ms\" 2 \"refused@file\" \"http://127.0.0.1:9\" 5ms";
        let Some(Entry::Access(access)) = parse(line) else { panic!() };
        assert_eq!((access.status, access.size, access.took_ms), (502, Some(11), Some(5)));
        assert_eq!(
            (access.router.as_str(), access.url.as_str()),
            ("refused@file", "http://127.0.0.1:9")
        );
        assert_eq!(
            (access.path.as_str(), access.at_us),
            ("/refused?token=1", Some(1_795_815_736_005_000))
        );
    }

    #[test]
    fn said_in_colours() {
        let line = "\u{1b}[90m2026-11-27T21:42:42Z\u{1b}[0m \u{1b}[31mERR\u{1b}[0m \u{1b}[1mError while dialing backend\u{1b}[0m \
            \u{1b}[36merror=\u{1b}[0m\u{1b}[31m\u{1b}[1m\"dial tcp 127.0.0.1:9: connect: connection refused\"\u{1b}[0m\u{1b}[0m";
        let Some(Entry::Said(said)) = parse(line) else { panic!() };
        assert_eq!(said.message, "Error while dialing backend");
        assert_eq!(said.error, "dial tcp 127.0.0.1:9: connect: connection refused");
    }

    #[test]
    fn said_with_its_place() {
        let line = "2026-11-27T21:43:28Z DBG github.com/traefik/traefik/v3/pkg/proxy/httputil/proxy.go:199 > 502 Bad Gateway error=EOF";
        let Some(Entry::Said(said)) = parse(line) else { panic!() };
        assert_eq!((said.message.as_str(), said.error.as_str()), ("502 Bad Gateway", "EOF"));
        assert_eq!(parse("2026-11-27T21:43:28Z hello world"), None);
    }
}
