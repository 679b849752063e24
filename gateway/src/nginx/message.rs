//! What a message of the error log means: one table, each pattern with lines as nginx writes them.
//!
//! `*` stands for anything. Each example matches exactly one pattern, which a test holds the table to.

use why502_proto::v1::{Fault, Phase};

use super::error_log::ErrorLine;

/// What a line tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// A request, or an attempt of it, failed.
    Failed {
        /// Where.
        phase: Phase,
        /// How.
        fault: Fault,
        /// What the client is sent if nothing else answers the request and nothing rewrites it.
        status: Option<u16>,
        /// No other peer can answer instead.
        last: bool,
    },
    /// A peer is not asked for a while.
    Disabled,
    /// A worker of nginx died: its pid and the signal.
    WorkerCrashed(u32, u32),
    /// nginx did not accept a configuration.
    Refused,
    /// nginx answered by itself with an error (`limit_req`): no sign of the upstream, and none of its relaying.
    OwnAnswer,
    /// Says nothing about requests to upstreams.
    Nothing,
}

/// How the fault of a pattern is found.
#[derive(Clone, Copy)]
enum Rule {
    /// From the number in "failed (111: Connection refused)".
    Errno,
    /// As an errno of the connection, except that nginx gives up with 500.
    OwnErrno,
    /// The gateway's timer.
    Timeout,
    Is(Fault),
    /// In this phase, whatever the action says; with this status for certain.
    At(Phase, Fault, u16),
    Handshake,
    Disabled,
    Crash,
    OwnAnswer,
}

struct Pattern {
    text: &'static str,
    rule: Rule,
    #[cfg_attr(not(test), expect(dead_code, reason = "the test of the table reads them"))]
    examples: &'static [&'static str],
}

const fn pattern(text: &'static str, rule: Rule, examples: &'static [&'static str]) -> Pattern {
    Pattern { text, rule, examples }
}

const PATTERNS: &[Pattern] = &[
    pattern("connect() failed (*)", Rule::Errno, &["connect() failed (111: Connection refused)"]),
    pattern(
        "connect() to * failed (*)",
        Rule::Errno,
        &[
            "connect() to unix:/run/app.sock failed (2: No such file or directory)",
            "connect() to unix:/run/app.sock failed (11: Resource temporarily unavailable)",
            "connect() to 10.0.0.7:80 failed (101: Network is unreachable)",
        ],
    ),
    pattern(
        "upstream timed out (*)*",
        Rule::Timeout,
        &["upstream timed out (110: Connection timed out)"],
    ),
    pattern(
        "upstream prematurely closed connection*",
        Rule::Is(Fault::Closed),
        &["upstream prematurely closed connection"],
    ),
    pattern(
        "upstream prematurely closed FastCGI *",
        Rule::Is(Fault::Closed),
        &[
            "upstream prematurely closed FastCGI stdout",
            "upstream prematurely closed FastCGI request",
        ],
    ),
    pattern("recv() failed (*)", Rule::Errno, &["recv() failed (104: Connection reset by peer)"]),
    pattern("readv() failed (*)", Rule::Errno, &["readv() failed (104: Connection reset by peer)"]),
    pattern("send() failed (*)", Rule::Errno, &["send() failed (104: Connection reset by peer)"]),
    pattern("writev() failed (*)", Rule::Errno, &["writev() failed (32: Broken pipe)"]),
    pattern("sendfile() failed (*)", Rule::Errno, &["sendfile() failed (32: Broken pipe)"]),
    pattern(
        "no live upstreams",
        Rule::At(Phase::Select, Fault::NoLiveUpstreams, 502),
        &["no live upstreams"],
    ),
    pattern(
        "* could not be resolved (3: *",
        Rule::At(Phase::Resolve, Fault::DnsNotFound, 502),
        &["app.internal could not be resolved (3: Host not found)"],
    ),
    pattern(
        "* could not be resolved (110: *",
        Rule::At(Phase::Resolve, Fault::DnsTimeout, 502),
        &["app.internal could not be resolved (110: Operation timed out)"],
    ),
    pattern(
        "* could not be resolved (2: *",
        Rule::At(Phase::Resolve, Fault::DnsFailed, 502),
        &["app.internal could not be resolved (2: Server failure)"],
    ),
    pattern(
        "* could not be resolved (1: *",
        Rule::At(Phase::Resolve, Fault::DnsFailed, 502),
        &["app.internal could not be resolved (1: Format error)"],
    ),
    pattern(
        "* could not be resolved (4: *",
        Rule::At(Phase::Resolve, Fault::DnsFailed, 502),
        &["app.internal could not be resolved (4: Unimplemented)"],
    ),
    pattern(
        "* could not be resolved (5: *",
        Rule::At(Phase::Resolve, Fault::DnsFailed, 502),
        &["app.internal could not be resolved (5: Operation refused)"],
    ),
    pattern(
        "no resolver defined to resolve *",
        Rule::At(Phase::Resolve, Fault::NoResolver, 502),
        &["no resolver defined to resolve app.internal"],
    ),
    pattern(
        "no port in upstream *",
        Rule::At(Phase::Select, Fault::NoPort, 500),
        &["no port in upstream \"app\""],
    ),
    pattern(
        "upstream sent too big header*",
        Rule::Is(Fault::HeaderTooBig),
        &["upstream sent too big header"],
    ),
    pattern(
        "upstream sent no valid HTTP/1.0 header*",
        // It is taken for HTTP/0.9: the client gets the raw bytes, and no 502.
        Rule::Is(Fault::WrongProtocol),
        &["upstream sent no valid HTTP/1.0 header"],
    ),
    pattern(
        "upstream sent invalid header*",
        Rule::Is(Fault::HeaderInvalid),
        &["upstream sent invalid header: \"a\\x20b...\""],
    ),
    pattern(
        "upstream sent duplicate header line*",
        Rule::Is(Fault::HeaderInvalid),
        &[
            "upstream sent duplicate header line: \"Content-Length: 2\", previous value: \"Content-Length: 1\"",
        ],
    ),
    pattern(
        "upstream sent \"Content-Length\" and *",
        Rule::Is(Fault::HeaderInvalid),
        &["upstream sent \"Content-Length\" and \"Transfer-Encoding\" headers at the same time"],
    ),
    pattern(
        "upstream sent invalid \"Content-Length\" header*",
        Rule::Is(Fault::HeaderInvalid),
        &["upstream sent invalid \"Content-Length\" header: \"Content-Length: x\""],
    ),
    pattern(
        "upstream sent unknown \"Transfer-Encoding\"*",
        Rule::Is(Fault::HeaderInvalid),
        &["upstream sent unknown \"Transfer-Encoding\": \"x\""],
    ),
    pattern(
        "upstream sent invalid chunked response*",
        Rule::Is(Fault::BodyInvalid),
        &["upstream sent invalid chunked response"],
    ),
    pattern(
        "upstream sent more data than specified in \"Content-Length\" header*",
        Rule::Is(Fault::BodyInvalid),
        &["upstream sent more data than specified in \"Content-Length\" header"],
    ),
    pattern(
        "upstream SSL certificate verify error: *",
        Rule::At(Phase::Tls, Fault::TlsCertificate, 502),
        &["upstream SSL certificate verify error: (18:self-signed certificate)"],
    ),
    pattern(
        "upstream SSL certificate does not match *",
        Rule::At(Phase::Tls, Fault::TlsCertificate, 502),
        &["upstream SSL certificate does not match \"app.internal\""],
    ),
    pattern(
        // With TLS 1.3 a service refuses the lack of a certificate only after the handshake.
        "SSL_* failed (SSL: *",
        Rule::Handshake,
        &[
            "SSL_read() failed (SSL: error:0A00045C:SSL routines::tlsv13 alert certificate required)",
            "SSL_do_handshake() failed (SSL: error:0A00010B:SSL routines::wrong version number)",
            "SSL_do_handshake() failed (SSL: error:0A000410:SSL routines::sslv3 alert handshake failure:SSL alert \
             number 40)",
        ],
    ),
    pattern(
        "peer closed connection in SSL handshake*",
        Rule::At(Phase::Tls, Fault::TlsHandshake, 502),
        &[
            "peer closed connection in SSL handshake",
            "peer closed connection in SSL handshake (104: Connection reset by peer)",
        ],
    ),
    pattern(
        "upstream prematurely sent response*",
        Rule::At(Phase::Tls, Fault::WrongProtocol, 502),
        &["upstream prematurely sent response"],
    ),
    pattern(
        "upstream sent unsupported FastCGI protocol version: *",
        Rule::Is(Fault::WrongProtocol),
        &["upstream sent unsupported FastCGI protocol version: 72"],
    ),
    pattern(
        "upstream sent too large http2 frame: *",
        Rule::Is(Fault::WrongProtocol),
        &["upstream sent too large http2 frame: 4740180"],
    ),
    pattern(
        "upstream rejected request with error *",
        Rule::Is(Fault::Rejected),
        &["upstream rejected request with error 7"],
    ),
    pattern(
        "upstream sent goaway with error *",
        Rule::Is(Fault::Rejected),
        &["upstream sent goaway with error 1"],
    ),
    pattern(
        "upstream prematurely closed stream*",
        Rule::Is(Fault::Closed),
        &["upstream prematurely closed stream"],
    ),
    pattern("socket() failed (*)", Rule::OwnErrno, &["socket() failed (24: Too many open files)"]),
    pattern(
        "bind(*) failed (*)",
        Rule::OwnErrno,
        &["bind(10.0.0.9) failed (99: Cannot assign requested address)"],
    ),
    pattern(
        "* worker_connections are not enough",
        Rule::At(Phase::Connect, Fault::ConnectionLimit, 500),
        &["768 worker_connections are not enough"],
    ),
    pattern(
        "pwritev() \"*",
        Rule::Is(Fault::Enospc),
        &[
            "pwritev() \"/var/lib/nginx/proxy/1/00/0001\" failed (28: No space left on device)",
            "pwritev() \"/var/lib/nginx/proxy/1/00/0001\" has written only 4096 of 8192",
        ],
    ),
    pattern(
        "upstream server temporarily disabled",
        Rule::Disabled,
        &["upstream server temporarily disabled"],
    ),
    pattern(
        "worker process * exited on signal *",
        Rule::Crash,
        &[
            "worker process 812 exited on signal 11",
            "worker process 812 exited on signal 6 (core dumped)",
        ],
    ),
    pattern(
        "limiting requests, *",
        Rule::OwnAnswer,
        &["limiting requests, excess: 5.220 by zone \"one\""],
    ),
    pattern(
        "limiting connections by *",
        Rule::OwnAnswer,
        &["limiting connections by zone \"addr\""],
    ),
];

/// Reads the meaning of a line.
pub fn meaning(line: &ErrorLine<'_>) -> Meaning {
    // "[emerg] 8#8: unexpected "}" in /etc/nginx/nginx.conf:10" and hundreds of others.
    if line.level == "emerg" && line.client.is_empty() {
        return Meaning::Refused;
    }
    match PATTERNS.iter().find(|pattern| matches(pattern.text, line.message)) {
        Some(pattern) => apply(pattern.rule, line),
        None => Meaning::Nothing,
    }
}

fn apply(rule: Rule, line: &ErrorLine<'_>) -> Meaning {
    // Without an action the line is not about an upstream, but about the client's or some own connection.
    let phase = match line.action {
        "connecting to upstream" => Some(Phase::Connect),
        "SSL handshaking to upstream" => Some(Phase::Tls),
        "sending request to upstream" => Some(Phase::Send),
        "reading response header from upstream" => Some(Phase::Header),
        "reading upstream" | "proxying upgraded connection" => Some(Phase::Body),
        "proxying connection" if !line.upstream.is_empty() => Some(Phase::Body),
        _ => None,
    };
    let fault = match rule {
        Rule::Disabled => return Meaning::Disabled,
        Rule::Crash => return crash(line.message),
        Rule::OwnAnswer => return Meaning::OwnAnswer,
        Rule::At(phase, fault, status) => {
            let last = phase != Phase::Tls;
            return Meaning::Failed { phase, fault, status: Some(status), last };
        }
        Rule::Is(fault) => fault,
        Rule::Timeout => Fault::Timeout,
        Rule::Errno | Rule::OwnErrno => errno(line.message),
        Rule::Handshake if line.message.contains("wrong version number") => Fault::WrongProtocol,
        Rule::Handshake => Fault::TlsHandshake,
    };
    let Some(phase) = phase else { return Meaning::Nothing };
    let status = match (rule, phase, fault) {
        // The client has its status already, or nginx passes on what it got.
        (_, Phase::Body, _) => None,
        (Rule::Is(_), _, Fault::WrongProtocol) if line.message.contains("HTTP/1.0") => None,
        // An early answer may have been readable.
        (Rule::Errno, Phase::Send, _) => None,
        (Rule::OwnErrno, ..) => Some(500),
        (Rule::Timeout, ..) => Some(504),
        _ => Some(502),
    };
    Meaning::Failed { phase, fault, status, last: matches!(rule, Rule::OwnErrno) }
}

/// "worker process 812 exited on signal 11"
fn crash(message: &str) -> Meaning {
    let mut numbers = message.split(' ').filter_map(|word| word.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(pid), Some(signal)) => Meaning::WorkerCrashed(pid, signal),
        _ => Meaning::Nothing,
    }
}

/// The number in "failed (111: Connection refused)".
fn errno(message: &str) -> Fault {
    let number = message.rsplit_once("failed (").and_then(|(_, rest)| rest.split_once(':'));
    match number.and_then(|(number, _)| number.parse::<i32>().ok()).unwrap_or(0) {
        1 => Fault::Eperm,
        2 => Fault::Enoent,
        11 => Fault::Eagain,
        13 => Fault::Eacces,
        22 => Fault::Einval,
        23 => Fault::Enfile,
        24 => Fault::Emfile,
        28 => Fault::Enospc,
        32 => Fault::Epipe,
        99 => Fault::Eaddrnotavail,
        100 => Fault::Enetdown,
        101 => Fault::Enetunreach,
        104 => Fault::Econnreset,
        105 => Fault::Enobufs,
        110 => Fault::Etimedout,
        111 => Fault::Econnrefused,
        113 => Fault::Ehostunreach,
        _ => Fault::OtherErrno,
    }
}

/// Whether `text` is like `pattern`, in which `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(mut rest) = text.strip_prefix(parts.next().unwrap_or("")) else { return false };
    let mut parts = parts.peekable();
    if parts.peek().is_none() {
        return rest.is_empty();
    }
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return rest.ends_with(part);
        }
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_example_matches_its_pattern_and_no_other() {
        for pattern in PATTERNS {
            assert!(!pattern.examples.is_empty(), "{}", pattern.text);
            for example in pattern.examples {
                let found: Vec<_> =
                    PATTERNS.iter().filter(|p| matches(p.text, example)).map(|p| p.text).collect();
                assert_eq!(found, [pattern.text], "{example}");
            }
        }
    }

    #[track_caller]
    fn check(level: &str, message: &str, action: &str, expected: Meaning) {
        let line = ErrorLine { level, message, action, client: "::1", ..ErrorLine::default() };
        assert_eq!(meaning(&line), expected);
    }

    const fn failed(phase: Phase, fault: Fault, status: Option<u16>, last: bool) -> Meaning {
        Meaning::Failed { phase, fault, status, last }
    }

    #[test]
    fn the_phase_is_the_action() {
        let timed_out = "upstream timed out (110: Connection timed out)";
        let timeout = |phase, status| failed(phase, Fault::Timeout, status, false);
        check("error", timed_out, "connecting to upstream", timeout(Phase::Connect, Some(504)));
        check("error", timed_out, "SSL handshaking to upstream", timeout(Phase::Tls, Some(504)));
        check("error", timed_out, "sending request to upstream", timeout(Phase::Send, Some(504)));
        let header = "reading response header from upstream";
        check("error", timed_out, header, timeout(Phase::Header, Some(504)));
        check("error", timed_out, "reading upstream", timeout(Phase::Body, None));
        check(
            "info",
            "recv() failed (104: Connection reset by peer)",
            "sending to client",
            Meaning::Nothing,
        );
        check("info", "recv() failed (104: Connection reset by peer)", "", Meaning::Nothing);
        let kernel = failed(Phase::Header, Fault::Etimedout, Some(502), false);
        check("error", "recv() failed (110: Connection timed out)", header, kernel);
    }

    #[test]
    fn statuses_that_are_not_502() {
        let connecting = "connecting to upstream";
        let files = "socket() failed (24: Too many open files)";
        check("alert", files, connecting, failed(Phase::Connect, Fault::Emfile, Some(500), true));
        let ports = "connect() to 10.0.0.7:80 failed (99: Cannot assign requested address)";
        check(
            "crit",
            ports,
            connecting,
            failed(Phase::Connect, Fault::Eaddrnotavail, Some(502), false),
        );
        let raw = "upstream sent no valid HTTP/1.0 header";
        let header = "reading response header from upstream";
        check("error", raw, header, failed(Phase::Header, Fault::WrongProtocol, None, false));
        let pipe = failed(Phase::Send, Fault::Epipe, None, false);
        check("error", "writev() failed (32: Broken pipe)", "sending request to upstream", pipe);
    }

    #[test]
    fn what_is_no_failure() {
        let gone = "epoll_wait() reported that client prematurely closed connection, so upstream connection is closed too";
        check("info", gone, "connecting to upstream", Meaning::Nothing);
        let buffered =
            "an upstream response is buffered to a temporary file /var/lib/nginx/proxy/1";
        check("warn", buffered, "reading upstream", Meaning::Nothing);
        let stderr = "FastCGI sent in stderr: \"Primary script unknown\"";
        check("error", stderr, "reading response header from upstream", Meaning::Nothing);
        check("error", "limiting requests, excess: 5.2 by zone \"one\"", "", Meaning::OwnAnswer);
        check(
            "warn",
            "upstream server temporarily disabled",
            "connecting to upstream",
            Meaning::Disabled,
        );
        check("alert", "worker process 8 exited on signal 9", "", Meaning::WorkerCrashed(8, 9));
    }
}
