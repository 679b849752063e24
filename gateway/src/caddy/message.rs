//! What Go's errors mean, in the words that Caddy 2.6 and 2.11 log: one table, the first pattern
//! that fits decides.

use why502_proto::v1::{Fault, Phase};

/// Words, and what failed where they stand. All of them have to be there, in this order.
struct Pattern {
    words: &'static [&'static str],
    phase: Phase,
    fault: Fault,
    #[cfg_attr(not(test), expect(dead_code, reason = "the test of the table reads it"))]
    example: &'static str,
}

const fn pattern(
    words: &'static [&'static str],
    phase: Phase,
    fault: Fault,
    example: &'static str,
) -> Pattern {
    Pattern { words, phase, fault, example }
}

const PATTERNS: &[Pattern] = &[
    pattern(
        &["no upstreams available"],
        Phase::Select,
        Fault::NoLiveUpstreams,
        "no upstreams available",
    ),
    pattern(
        &["lookup ", "no such host"],
        Phase::Resolve,
        Fault::DnsNotFound,
        "dial tcp: lookup nope.invalid on 10.0.0.53:53: no such host",
    ),
    pattern(
        &["lookup ", "i/o timeout"],
        Phase::Resolve,
        Fault::DnsTimeout,
        "dial tcp: lookup app.internal on 10.0.0.53:53: read udp 10.0.0.9:34567->10.0.0.53:53: i/o timeout",
    ),
    pattern(
        &["dial tcp: lookup "],
        Phase::Resolve,
        Fault::DnsFailed,
        "dial tcp: lookup app.internal on 10.0.0.53:53: server misbehaving",
    ),
    pattern(
        &["dial ", "connection refused"],
        Phase::Connect,
        Fault::Econnrefused,
        "dial tcp 127.0.0.1:7001: connect: connection refused",
    ),
    pattern(
        &["dial ", "no such file or directory"],
        Phase::Connect,
        Fault::Enoent,
        "dial unix /run/app.sock: connect: no such file or directory",
    ),
    pattern(
        &["dial ", "permission denied"],
        Phase::Connect,
        Fault::Eacces,
        "dial unix /run/app.sock: connect: permission denied",
    ),
    pattern(
        &["dial ", "resource temporarily unavailable"],
        Phase::Connect,
        Fault::Eagain,
        "dial unix /run/app.sock: connect: resource temporarily unavailable",
    ),
    pattern(
        &["dial ", "no route to host"],
        Phase::Connect,
        Fault::Ehostunreach,
        "dial tcp 10.0.0.7:8080: connect: no route to host",
    ),
    pattern(
        &["dial ", "network is unreachable"],
        Phase::Connect,
        Fault::Enetunreach,
        "dial tcp 10.0.0.7:8080: connect: network is unreachable",
    ),
    pattern(
        &["dial ", "cannot assign requested address"],
        Phase::Connect,
        Fault::Eaddrnotavail,
        "dial tcp 10.0.0.7:8080: connect: cannot assign requested address",
    ),
    pattern(
        &["dial ", "operation not permitted"],
        Phase::Connect,
        Fault::Eperm,
        "dial tcp 10.0.0.7:8080: connect: operation not permitted",
    ),
    pattern(
        &["dial ", "too many open files"],
        Phase::Connect,
        Fault::Emfile,
        "dial tcp 10.0.0.7:8080: socket: too many open files",
    ),
    pattern(
        &["dial ", "connection timed out"],
        Phase::Connect,
        Fault::Etimedout,
        "dial tcp 10.0.0.7:8080: connect: connection timed out",
    ),
    pattern(
        &["dial ", "connection reset by peer"],
        Phase::Connect,
        Fault::Econnreset,
        "dial tcp 10.0.0.7:8080: connect: connection reset by peer",
    ),
    pattern(
        &["dial ", "i/o timeout"],
        Phase::Connect,
        Fault::Timeout,
        "dial tcp 127.0.0.1:7006: i/o timeout",
    ),
    pattern(
        &["TLS handshake timeout"],
        Phase::Tls,
        Fault::Timeout,
        "net/http: TLS handshake timeout",
    ),
    pattern(
        &["x509: "],
        Phase::Tls,
        Fault::TlsCertificate,
        "tls: failed to verify certificate: x509: certificate signed by unknown authority",
    ),
    pattern(
        &["first record does not look like a TLS handshake"],
        Phase::Tls,
        Fault::WrongProtocol,
        "tls: first record does not look like a TLS handshake",
    ),
    pattern(
        &["server gave HTTP response to HTTPS client"],
        Phase::Tls,
        Fault::WrongProtocol,
        "http: server gave HTTP response to HTTPS client",
    ),
    pattern(&["tls: "], Phase::Tls, Fault::TlsHandshake, "remote error: tls: handshake failure"),
    pattern(
        &["write ", "broken pipe"],
        Phase::Send,
        Fault::Epipe,
        "write tcp 127.0.0.1:50974->127.0.0.1:7002: write: broken pipe",
    ),
    pattern(
        &["write ", "connection reset by peer"],
        Phase::Send,
        Fault::Econnreset,
        "write tcp 127.0.0.1:50974->127.0.0.1:7002: write: connection reset by peer",
    ),
    pattern(
        &["write ", "i/o timeout"],
        Phase::Send,
        Fault::Timeout,
        "write tcp 127.0.0.1:50974->127.0.0.1:7002: i/o timeout",
    ),
    pattern(
        &["connection reset by peer"],
        Phase::Header,
        Fault::Econnreset,
        "read tcp 127.0.0.1:50974->127.0.0.1:7002: read: connection reset by peer",
    ),
    pattern(
        &["read ", "connection timed out"],
        Phase::Header,
        Fault::Etimedout,
        "read tcp 127.0.0.1:50974->10.0.0.7:8080: read: connection timed out",
    ),
    pattern(
        &["timeout awaiting response headers"],
        Phase::Header,
        Fault::Timeout,
        "net/http: timeout awaiting response headers",
    ),
    pattern(
        &["i/o timeout"],
        Phase::Header,
        Fault::Timeout,
        "read unix @->/run/php/php8.2-fpm.sock: i/o timeout",
    ),
    pattern(
        &["context deadline exceeded"],
        Phase::Header,
        Fault::Timeout,
        "context deadline exceeded",
    ),
    pattern(
        &["malformed HTTP response"],
        Phase::Header,
        Fault::WrongProtocol,
        "net/http: HTTP/1.x transport connection broken: malformed HTTP response \"SSH-2.0-x\"",
    ),
    pattern(
        &["malformed HTTP version"],
        Phase::Header,
        Fault::WrongProtocol,
        "net/http: HTTP/1.x transport connection broken: malformed HTTP version \"RTSP/1.0\"",
    ),
    pattern(
        &["malformed "],
        Phase::Header,
        Fault::HeaderInvalid,
        "net/http: HTTP/1.x transport connection broken: malformed MIME header: missing colon: \"XYZZY\"",
    ),
    pattern(
        &["server response headers exceeded"],
        Phase::Header,
        Fault::HeaderTooBig,
        "net/http: server response headers exceeded 1048576 bytes; aborted",
    ),
    pattern(
        &["invalid byte in chunk length"],
        Phase::Body,
        Fault::BodyInvalid,
        "reading: invalid byte in chunk length",
    ),
    pattern(
        &["stream error: "],
        Phase::Header,
        Fault::Rejected,
        "stream error: stream ID 1; INTERNAL_ERROR; received from peer",
    ),
    pattern(
        &["GOAWAY"],
        Phase::Header,
        Fault::Rejected,
        "http2: server sent GOAWAY and closed the connection; LastStreamID=1, ErrCode=NO_ERROR, debug=\"\"",
    ),
    pattern(
        &["server closed idle connection"],
        Phase::Header,
        Fault::Closed,
        "http: server closed idle connection",
    ),
    pattern(&["EOF"], Phase::Header, Fault::Closed, "EOF"),
];

/// What an error means; `None`: nothing about the upstream, as far as is known.
pub fn meaning(error: &str) -> Option<(Phase, Fault)> {
    // The client went away.
    if error.contains("context canceled") || error.contains("http2: stream closed") {
        return None;
    }
    let pattern = PATTERNS.iter().find(|pattern| fits(pattern, error))?;
    Some((pattern.phase, pattern.fault))
}

fn fits(pattern: &Pattern, error: &str) -> bool {
    let mut rest = error;
    pattern.words.iter().all(|word| match rest.find(word) {
        Some(at) => {
            rest = &rest[at + word.len()..];
            true
        }
        None => false,
    })
}

/// The peer that an error names: "127.0.0.1:7001" of "dial tcp 127.0.0.1:7001: ...",
/// "unix:/run/a.sock", the far end of
/// "read tcp A->B: ...", "app" of "lookup app on ...".
pub fn peer(error: &str) -> String {
    if let Some((_, rest)) = error.split_once("lookup ") {
        return rest.split([' ', ':']).next().unwrap_or_default().to_owned();
    }
    if let Some((_, rest)) = error.split_once("dial ") {
        let (network, rest) = rest.split_once(' ').unwrap_or(("", rest));
        let address = rest.split(": ").next().unwrap_or_default();
        return if network.starts_with("unix") {
            format!("unix:{address}")
        } else {
            address.to_owned()
        };
    }
    let Some((before, rest)) = error.split_once("->") else { return String::new() };
    let address = rest.split(": ").next().unwrap_or_default();
    if before.contains("unix ") { format!("unix:{address}") } else { address.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_example_is_found_by_its_own_pattern() {
        for (index, pattern) in PATTERNS.iter().enumerate() {
            let found = PATTERNS.iter().position(|other| fits(other, pattern.example));
            assert_eq!(found, Some(index), "{}", pattern.example);
        }
        assert_eq!(meaning("context canceled"), None);
        assert_eq!(meaning("something else"), None);
    }

    #[test]
    fn peers() {
        for (error, expected) in [
            ("dial tcp 127.0.0.1:7001: connect: connection refused", "127.0.0.1:7001"),
            ("dial tcp [::1]:7001: connect: connection refused", "[::1]:7001"),
            ("dial unix /run/a.sock: connect: no such file or directory", "unix:/run/a.sock"),
            ("dial tcp: lookup app on 10.0.0.53:53: no such host", "app"),
            (
                "read tcp 127.0.0.1:5->127.0.0.1:7002: read: connection reset by peer",
                "127.0.0.1:7002",
            ),
            ("read unix @->/run/php.sock: i/o timeout", "unix:/run/php.sock"),
            ("EOF", ""),
        ] {
            assert_eq!(peer(error), expected);
        }
    }
}
