//! One line of the error log, cut into its parts.
//!
//! `[time] [module:level] [pid P:tid T] (errno)words: [client A] AHnnnnn: message, referer: R` is
//! the default of `ErrorLogFormat`; through syslog the time is missing, and a format of one's own
//! may leave out or move parts. The number behind `AH` names the message in all of them, and only
//! httpd's own words stand before it.

/// A line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ErrorLine<'a> {
    /// "proxy_http", "core"; "" where the format does not say.
    pub module: &'a str,
    /// "23012:tid 23142": which thread wrote it; "" where the format does not say.
    pub thread: &'a str,
    /// "Fri Nov 27 21:58:41.689685 2026"; "" where the format does not say.
    pub stamp: &'a str,
    /// "111" of "(111)Connection refused", "EAI 2" of "(EAI 2)Name or service not known"; "".
    pub error: &'a str,
    /// "127.0.0.1:41106"; "" where it speaks of no client.
    pub client: &'a str,
    /// 957 of "AH00957"; 0: the message has none.
    pub code: u32,
    /// What follows the code, without the referer.
    pub message: &'a str,
    /// Error, client and message as they stand there.
    pub text: &'a str,
}

impl<'a> ErrorLine<'a> {
    /// Process that wrote it; 0 where the format does not say.
    pub fn pid(&self) -> u32 {
        self.thread.split(':').next().and_then(|pid| pid.parse().ok()).unwrap_or(0)
    }

    /// Error and message, without the client.
    pub fn said(&self) -> String {
        let Some((before, rest)) = self.text.split_once("[client ") else {
            return self.text.to_owned();
        };
        // Only httpd's own words stand before the number.
        match rest.split_once("] ") {
            Some((_, rest)) if !before.contains("AH") => format!("{before}{rest}"),
            _ => self.text.to_owned(),
        }
    }

    /// "21:58" of its stamp.
    pub fn minute(&self) -> &'a str {
        self.stamp.get(11..16).unwrap_or("")
    }

    /// Address of the client, without its port.
    pub fn client_address(&self) -> &'a str {
        let address = self.client.rsplit_once(':').map_or(self.client, |(address, _)| address);
        address.trim_start_matches('[').trim_end_matches(']')
    }
}

/// Reads a line; `None`: it is none of httpd's.
pub fn parse(line: &str) -> Option<ErrorLine<'_>> {
    let mut parsed = ErrorLine::default();
    let mut rest = line;
    // The brackets at its begin, with anything a format may put between them.
    while let Some(inner) = rest.strip_prefix('[') {
        let end = inner.find(']')?;
        if !bracket(&inner[..end], &mut parsed) {
            break;
        }
        rest = inner[end + 1..].trim_start();
    }
    let known = !parsed.module.is_empty() || !parsed.thread.is_empty();
    let Some((at, code)) = code(rest) else {
        if !known {
            return None;
        }
        let head = rest.strip_prefix("[client ").and_then(|rest| rest.split_once("] "));
        let (client, message) = head.unwrap_or(("", rest));
        (parsed.client, parsed.message, parsed.text) = (client, message, message);
        return Some(parsed);
    };
    let head = &rest[..at];
    parsed.code = code;
    parsed.error = error(head);
    for word in ["[client ", "[remote "] {
        if let Some((_, client)) = head.split_once(word) {
            // An IPv6 address has brackets of its own.
            let own =
                client.starts_with('[').then(|| client.find(']')).flatten().map_or(0, |at| at + 1);
            let end = client[own..].find(']').map_or(client.len(), |at| own + at);
            parsed.client = &client[..end];
        }
    }
    if !known {
        others(head, &mut parsed);
    }
    let message = rest[at + 7..].trim_start_matches(':').trim_start();
    let message = message.rsplit_once(", referer: ").map_or(message, |(message, _)| message);
    parsed.message = message;
    parsed.text = rest;
    Some(parsed)
}

/// Takes what stands between two brackets; `false`: it is no part of the head.
fn bracket<'a>(inner: &'a str, parsed: &mut ErrorLine<'a>) -> bool {
    if let Some(thread) = inner.strip_prefix("pid ") {
        parsed.thread = thread;
        return true;
    }
    if inner.starts_with("client ") || inner.starts_with("remote ") {
        return false;
    }
    match inner.split_once(':') {
        Some((module, level)) if is_level(level) => parsed.module = module,
        _ if is_stamp(inner) => parsed.stamp = inner,
        // An id of the request or the connection.
        _ => {}
    }
    true
}

fn is_level(level: &str) -> bool {
    const LEVELS: [&str; 9] =
        ["emerg", "alert", "crit", "error", "warn", "notice", "info", "debug", "trace"];
    LEVELS.iter().any(|known| level.starts_with(known))
}

/// "Fri Nov 27 21:58:41.689685 2026"
fn is_stamp(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.len() >= 24 && bytes[3] == b' ' && bytes[13] == b':' && bytes[16] == b':'
}

/// Where the first `AHnnnnn:` stands that begins a message, and its number.
fn code(text: &str) -> Option<(usize, u32)> {
    for (at, _) in text.match_indices("AH") {
        let digits = text.get(at + 2..at + 7).filter(|d| d.bytes().all(|b| b.is_ascii_digit()));
        let begins = at == 0 || text[..at].ends_with([' ', '"', '|', '\t']);
        if let Some(digits) = digits.filter(|_| begins && text[at + 7..].starts_with(':')) {
            return Some((at, digits.parse().ok()?));
        }
        // What a program wrote is quoted behind httpd's own words, never before them.
        if text[..at].len() > 512 {
            return None;
        }
    }
    None
}

/// The number of "(111)Connection refused".
fn error(head: &str) -> &str {
    head.match_indices('(')
        .filter_map(|(at, _)| head[at + 1..].split_once(')').map(|(number, _)| number))
        .find(|number| {
            let digits = number.strip_prefix("EAI ").unwrap_or(number);
            !digits.is_empty() && digits.trim_start_matches('-').bytes().all(|b| b.is_ascii_digit())
        })
        .unwrap_or("")
}

/// Thread and module in a format of one's own.
fn others<'a>(head: &'a str, parsed: &mut ErrorLine<'a>) {
    if let Some((_, thread)) = head.split_once("pid ") {
        parsed.thread = thread.split([']', ',', '"', ')']).next().unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_default_format() {
        let line = parse(
            "[Fri Nov 27 21:58:43.761505 2026] [proxy_http:error] [pid 23011:tid 23090] (70007)The timeout specified \
             has expired: [client 127.0.0.1:41174] AH01102: error reading status line from remote server \
             localhost:7002, referer: http://a/",
        )
        .unwrap();
        assert_eq!(
            (line.module, line.thread, line.pid()),
            ("proxy_http", "23011:tid 23090", 23011)
        );
        assert_eq!((line.error, line.client, line.code), ("70007", "127.0.0.1:41174", 1102));
        assert_eq!(line.message, "error reading status line from remote server localhost:7002");
        assert_eq!((line.minute(), line.client_address()), ("21:58", "127.0.0.1"));
    }

    #[test]
    fn other_shapes() {
        let syslog = parse(
            "[proxy:error] [pid 7] (111)Connection refused: AH00957: http: attempt to connect to [::1]:7001 (app) failed",
        )
        .unwrap();
        assert_eq!((syslog.error, syslog.code, syslog.pid()), ("111", 957, 7));
        let name = parse(
            "[Fri Nov 27 21:58:50.008459 2026] [proxy:error] [pid 1:tid 2] (EAI 2)Name or service not known: [client \
             [2001:db8::1]:41332] AH00898: DNS lookup failure for: nope.invalid returned by /dns/x",
        )
        .unwrap();
        assert_eq!((name.error, name.client_address()), ("EAI 2", "2001:db8::1"));
        let own = parse(
            "{\"pid\":\"9\",\"m\":\"(104)Connection reset by peer: AH01102: error reading\"}",
        )
        .unwrap();
        assert_eq!((own.code, own.error), (1102, "104"));
        let without = parse(
            "[Fri Nov 27 21:59:07.133881 2026] [proxy_scgi:error] [pid 1:tid 2] [client 127.0.0.1:58688] Script timed out \
             before returning headers: x",
        )
        .unwrap();
        assert_eq!(
            (without.code, without.message),
            (0, "Script timed out before returning headers: x")
        );
        assert_eq!(parse("AH00526: Syntax error on line 78 of /x:").unwrap().code, 526);
    }

    #[test]
    fn what_a_program_writes_is_no_message_of_httpd() {
        let line = parse(
            "[Fri Nov 27 21:59:17.292658 2026] [proxy_fcgi:error] [pid 1:tid 2] [client 127.0.0.1:44030] AH01071: Got error \
             'PHP message: AH01102: error reading status line from remote server 10.0.0.1:80'",
        )
        .unwrap();
        assert_eq!(line.code, 1071);
        assert_eq!(parse("2026/11/24 13:46:09 [error] 8#8: *1 x"), None);
        assert_eq!(parse(""), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(\\[|\\]|pid |AH01102:|client |\\(1\\)|:|é| |error|.){0,60}") {
            if let Some(line) = parse(&text) {
                line.pid();
                line.minute();
                line.client_address();
            }
        }
    }
}
