//! What the errors of Go's net and net/http mean, as Traefik logs them: one table, each pattern with a line that
//! Traefik 3.7 wrote, or that Go's source has.

use why502_proto::v1::{Fault, Phase};

use crate::errno;

/// How the fault of a pattern is found.
#[derive(Clone, Copy)]
enum Rule {
    Is(Phase, Fault),
    /// From the words of the errno, in this phase.
    Errno(Phase),
    /// The client went away.
    Nothing,
}

struct Pattern {
    text: &'static str,
    rule: Rule,
    #[cfg_attr(not(test), expect(dead_code, reason = "the test of the table reads it"))]
    example: &'static str,
}

const fn is(text: &'static str, phase: Phase, fault: Fault, example: &'static str) -> Pattern {
    Pattern { text, rule: Rule::Is(phase, fault), example }
}

/// The first whose text is in the error decides; examples are of their own pattern and no earlier one.
const PATTERNS: &[Pattern] = &[
    Pattern { text: "context canceled", rule: Rule::Nothing, example: "context canceled" },
    is(
        "no such host",
        Phase::Resolve,
        Fault::DnsNotFound,
        "dial tcp: lookup nosuch.invalid on 10.0.0.53:53: no such host",
    ),
    is(
        "server misbehaving",
        Phase::Resolve,
        Fault::DnsFailed,
        "dial tcp: lookup app.internal on 10.0.0.53:53: server misbehaving",
    ),
    Pattern {
        text: ": lookup ",
        rule: Rule::Errno(Phase::Resolve),
        example: "dial tcp: lookup nosuch.invalid on 10.255.255.53:53: dial udp 10.255.255.53:53: connect: network is unreachable",
    },
    Pattern {
        text: ": connect: ",
        rule: Rule::Errno(Phase::Connect),
        example: "dial tcp 127.0.0.1:9: connect: connection refused",
    },
    is("TLS handshake timeout", Phase::Tls, Fault::Timeout, "net/http: TLS handshake timeout"),
    is(
        "timeout awaiting response headers",
        Phase::Header,
        Fault::Timeout,
        "net/http: timeout awaiting response headers",
    ),
    Pattern {
        text: "dial tcp ",
        rule: Rule::Errno(Phase::Connect),
        example: "dial tcp 10.1.1.8:80: i/o timeout",
    },
    is(
        "failed to verify certificate",
        Phase::Tls,
        Fault::TlsCertificate,
        "tls: failed to verify certificate: x509: certificate signed by unknown authority",
    ),
    is(
        "x509: ",
        Phase::Tls,
        Fault::TlsCertificate,
        "x509: certificate has expired or is not yet valid: current time 2026-11-27T21:42:32Z is after 2021-01-01T00:00:00Z",
    ),
    is(
        "server gave HTTP response to HTTPS client",
        Phase::Tls,
        Fault::TlsHandshake,
        "http: server gave HTTP response to HTTPS client",
    ),
    is(
        "tls: ",
        Phase::Tls,
        Fault::TlsHandshake,
        "tls: first record does not look like a TLS handshake",
    ),
    is(
        "looked like an HTTP/1.1 header",
        Phase::Header,
        Fault::WrongProtocol,
        "http2: failed reading the frame payload: http2: frame too large, note that the frame header looked like an HTTP/1.1 header",
    ),
    is(
        "malformed HTTP ",
        Phase::Header,
        Fault::WrongProtocol,
        "net/http: HTTP/1.x transport connection broken: malformed HTTP response \"SSH-2.0-OpenSSH_9.2\"",
    ),
    is(
        "malformed MIME header",
        Phase::Header,
        Fault::HeaderInvalid,
        "net/http: HTTP/1.x transport connection broken: malformed MIME header: missing colon: \"bad header\"",
    ),
    is(
        "server response headers exceeded ",
        Phase::Header,
        Fault::HeaderTooBig,
        "net/http: server response headers exceeded 10485760 bytes; aborted",
    ),
    is(
        "GOAWAY",
        Phase::Header,
        Fault::Rejected,
        "http2: server sent GOAWAY and closed the connection; LastStreamID=1, ErrCode=NO_ERROR, debug=\"\"",
    ),
    is(
        "stream error: ",
        Phase::Header,
        Fault::Rejected,
        "stream error: stream ID 1; REFUSED_STREAM; received from peer",
    ),
    is(
        "server closed idle connection",
        Phase::Header,
        Fault::Closed,
        "http: server closed idle connection",
    ),
    Pattern {
        text: "write tcp ",
        rule: Rule::Errno(Phase::Send),
        example: "write tcp 10.0.0.1:36966->10.0.0.7:8002: write: broken pipe",
    },
    Pattern {
        text: "read tcp ",
        rule: Rule::Errno(Phase::Header),
        example: "read tcp 127.0.0.1:36966->127.0.0.1:8002: read: connection reset by peer",
    },
    Pattern {
        text: "read unix ",
        rule: Rule::Errno(Phase::Header),
        example: "read unix @->/run/app.sock: read: connection reset by peer",
    },
    is("EOF", Phase::Header, Fault::Closed, "EOF"),
];

/// What an error means; `None`: nothing of the upstream.
pub(super) fn failure(error: &str) -> Option<(Phase, Fault)> {
    let pattern = PATTERNS.iter().find(|pattern| error.contains(pattern.text));
    match pattern.map(|pattern| pattern.rule) {
        None => Some((Phase::Unspecified, Fault::Unspecified)),
        Some(Rule::Nothing) => None,
        Some(Rule::Is(phase, fault)) => Some((phase, fault)),
        Some(Rule::Errno(phase)) => {
            let timeout = error.ends_with("i/o timeout");
            let fault = match (phase, timeout) {
                (Phase::Resolve, true) => Fault::DnsTimeout,
                (Phase::Resolve, false) => Fault::DnsFailed,
                (_, true) => Fault::Timeout,
                _ => errno::in_text(error).unwrap_or(Fault::OtherErrno),
            };
            Some((phase, fault))
        }
    }
}

/// The peer that an error names: "127.0.0.1:9" of "dial tcp 127.0.0.1:9: ...", the right one of "read tcp L->R: ...".
pub(super) fn peer(error: &str) -> String {
    for (begin, unix) in
        [("dial tcp ", false), ("dial unix ", true), ("read tcp ", false), ("write tcp ", false)]
    {
        let Some(at) = error.find(begin) else { continue };
        let rest = &error[at + begin.len()..];
        let name = rest.split_once(": ").map_or(rest, |(name, _)| name);
        let name = name.split_once("->").map_or(name, |(_, right)| right);
        return if unix { format!("unix:{name}") } else { name.to_owned() };
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_example_is_of_its_pattern_first() {
        for pattern in PATTERNS {
            let first = PATTERNS.iter().find(|other| pattern.example.contains(other.text)).unwrap();
            assert_eq!(first.text, pattern.text, "{}", pattern.example);
        }
    }

    #[test]
    fn faults_and_peers() {
        for (error, expected, at) in [
            (
                "dial tcp 127.0.0.1:9: connect: connection refused",
                (Phase::Connect, Fault::Econnrefused),
                "127.0.0.1:9",
            ),
            ("dial tcp 10.1.1.8:80: i/o timeout", (Phase::Connect, Fault::Timeout), "10.1.1.8:80"),
            (
                "dial tcp [::1]:80: connect: no route to host",
                (Phase::Connect, Fault::Ehostunreach),
                "[::1]:80",
            ),
            (
                "dial unix /run/a.sock: connect: no such file or directory",
                (Phase::Connect, Fault::Enoent),
                "unix:/run/a.sock",
            ),
            (
                "dial tcp: lookup a on 1.1.1.1:53: read udp 1.1.1.2:4->1.1.1.1:53: i/o timeout",
                (Phase::Resolve, Fault::DnsTimeout),
                "",
            ),
            (
                "read tcp 127.0.0.1:36966->127.0.0.1:8002: read: connection reset by peer",
                (Phase::Header, Fault::Econnreset),
                "127.0.0.1:8002",
            ),
            (
                "readLoopPeekFailLocked: remote error: tls: certificate required",
                (Phase::Tls, Fault::TlsHandshake),
                "",
            ),
            ("unexpected EOF", (Phase::Header, Fault::Closed), ""),
            ("something new", (Phase::Unspecified, Fault::Unspecified), ""),
        ] {
            assert_eq!((failure(error), peer(error).as_str()), (Some(expected), at), "{error}");
        }
        assert_eq!(failure("context canceled"), None);
    }
}
