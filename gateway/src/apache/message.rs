//! What the messages of httpd mean, by the number that each has: one table, with lines as httpd
//! 2.4.71 wrote them.
//!
//! Numbers are never given twice; a number that is not here says nothing about requests to
//! upstreams.

use why502_proto::v1::{AppEvent, Fault, Phase};

/// What a message says, alone or with those of the same thread before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// It could not connect: scheme, address and error are in the line.
    Attempt,
    /// Another word on the attempt that was told just before.
    AfterAttempt,
    /// A peer is in error state, and was not asked.
    Skipped,
    /// A peer is not asked for a while.
    Disabled,
    /// No member of a balancer is left.
    NoneLeft,
    /// A failure in this phase, of which the next message of the thread says more. The fault is
    /// that of the error where
    /// none is named.
    Begin(Phase, Option<Fault>),
    /// It names the peer of the failure that has begun, in this phase otherwise.
    End(Phase),
    /// It names a path, and in words what failed.
    Returned,
    /// A FastCGI request failed.
    Dispatch,
    /// The upstream's certificate was refused.
    Certificate,
    /// Another word on what the messages around it say.
    Context,
    /// A process of httpd ended by a signal.
    Crashed,
    /// httpd itself has no process, thread or descriptor left.
    Exhausted(AppEvent),
    /// It was told to take its configuration anew.
    Restarting,
    /// It runs with its configuration.
    Running,
    /// It refused a configuration.
    Refused,
}

/// A message.
#[derive(Debug)]
pub struct Pattern {
    /// Its number.
    pub code: u32,
    /// What it says.
    pub rule: Rule,
    /// A line of it, without its head.
    #[cfg_attr(not(test), expect(dead_code, reason = "the test of the table reads it"))]
    example: &'static str,
}

const fn pattern(code: u32, rule: Rule, example: &'static str) -> Pattern {
    Pattern { code, rule, example }
}

const PATTERNS: &[Pattern] = &[
    pattern(
        957,
        Rule::Attempt,
        "(111)Connection refused: AH00957: http: attempt to connect to 127.0.0.1:7001 (127.0.0.1:7001) failed",
    ),
    pattern(
        2454,
        Rule::Attempt,
        "(2)No such file or directory: AH02454: FCGI: attempt to connect to Unix domain socket /run/php.sock \
         (localhost:8000) failed",
    ),
    pattern(
        1114,
        Rule::AfterAttempt,
        "AH01114: HTTP: failed to make connection to backend: 127.0.0.1",
    ),
    pattern(1079, Rule::AfterAttempt, "AH01079: failed to make connection to backend: localhost"),
    pattern(
        10101,
        Rule::AfterAttempt,
        "AH10101: failed to make connection to backend: 127.0.0.1:7001",
    ),
    pattern(
        866,
        Rule::AfterAttempt,
        "AH00866: failed to make connection to backend: 127.0.0.1:7001",
    ),
    pattern(896, Rule::AfterAttempt, "AH00896: failed to make connection to backend: 127.0.0.1"),
    pattern(940, Rule::Skipped, "AH00940: http: disabled connection for (127.0.0.1:7001)"),
    pattern(
        959,
        Rule::Disabled,
        "AH00959: ap_proxy_connect_backend disabling worker for (127.0.0.1:7001) for 2s",
    ),
    pattern(1170, Rule::NoneLeft, "AH01170: balancer://pool: All workers are in error state"),
    pattern(
        1102,
        Rule::Begin(Phase::Header, None),
        "(104)Connection reset by peer: AH01102: error reading status line from remote server 127.0.0.1:7002",
    ),
    pattern(
        898,
        Rule::Returned,
        "AH00898: Error reading from remote server returned by /svc/close",
    ),
    pattern(
        10124,
        Rule::Begin(Phase::Header, Some(Fault::HeaderTooBig)),
        "(28)No space left on device: AH10124: header size is over the limit allowed by ResponseFieldSize (8192 bytes). \
         Bad response header: 'X: aaa[...]aaa'",
    ),
    pattern(1106, Rule::Returned, "AH01106: bad HTTP/1.1 header returned by /svc/nocolon (GET)"),
    pattern(
        1084,
        Rule::Begin(Phase::Send, None),
        "(20014)Internal error (specific information not available): AH01084: pass request body failed to 127.0.0.1:7002 \
         (127.0.0.1)",
    ),
    pattern(
        1097,
        Rule::Context,
        "AH01097: pass request body failed to 127.0.0.1:7002 (127.0.0.1) from 127.0.0.1 ()",
    ),
    pattern(
        1110,
        Rule::End(Phase::Body),
        "(70008)Partial results are valid but processing is incomplete: AH01110: error reading response",
    ),
    pattern(
        1067,
        Rule::Begin(Phase::Header, Some(Fault::Closed)),
        "AH01067: Failed to read FastCGI header",
    ),
    pattern(
        1068,
        Rule::Begin(Phase::Header, Some(Fault::WrongProtocol)),
        "AH01068: Got bogus version 72",
    ),
    pattern(
        1069,
        Rule::Begin(Phase::Header, Some(Fault::WrongProtocol)),
        "AH01069: Got bogus rid 3, expected 1",
    ),
    pattern(
        1075,
        Rule::Dispatch,
        "(70007)The timeout specified has expired: AH01075: Error dispatching request to :7080: (polling)",
    ),
    pattern(
        860,
        Rule::End(Phase::Header),
        "AH00860: error reading response headers from 127.0.0.1:7002",
    ),
    pattern(
        1030,
        Rule::Begin(Phase::Header, None),
        "(70007)The timeout specified has expired: AH01030: ajp_ilink_receive() can't receive header",
    ),
    pattern(992, Rule::Context, "AH00992: ajp_read_header: ajp_ilink_receive failed"),
    pattern(
        878,
        Rule::End(Phase::Header),
        "(70007)The timeout specified has expired: AH00878: read response failed from 127.0.0.1:7002 (127.0.0.1:7002)",
    ),
    pattern(
        2411,
        Rule::Certificate,
        "AH02411: SSL Proxy: Peer certificate does not match for hostname 127.0.0.1",
    ),
    pattern(
        2039,
        Rule::Certificate,
        "AH02039: Certificate Verification: Error (18): self-signed certificate",
    ),
    pattern(52, Rule::Crashed, "AH00052: child pid 29106 exit signal Segmentation fault (11)"),
    pattern(
        51,
        Rule::Crashed,
        "AH00051: child pid 812 exit signal Aborted (6), possible coredump in /tmp",
    ),
    pattern(
        161,
        Rule::Exhausted(AppEvent::WorkersSaturated),
        "AH00161: server reached MaxRequestWorkers setting, consider raising the MaxRequestWorkers setting",
    ),
    pattern(
        484,
        Rule::Exhausted(AppEvent::WorkersSaturated),
        "AH00484: server reached MaxRequestWorkers setting, consider raising the MaxRequestWorkers setting",
    ),
    pattern(
        286,
        Rule::Exhausted(AppEvent::WorkersSaturated),
        "AH00286: server reached MaxRequestWorkers setting, consider raising the MaxRequestWorkers setting",
    ),
    pattern(
        485,
        Rule::Exhausted(AppEvent::WorkersSaturated),
        "AH00485: scoreboard is full, not at MaxRequestWorkers",
    ),
    pattern(
        3490,
        Rule::Exhausted(AppEvent::WorkersSaturated),
        "AH03490: scoreboard is full, not at MaxRequestWorkers.Increase ServerLimit.",
    ),
    pattern(493, Rule::Restarting, "AH00493: SIGUSR1 received.  Doing graceful restart"),
    pattern(494, Rule::Restarting, "AH00494: SIGHUP received.  Attempting to restart"),
    pattern(171, Rule::Restarting, "AH00171: Graceful restart requested, doing restart"),
    pattern(173, Rule::Restarting, "AH00173: SIGHUP received.  Attempting to restart"),
    pattern(297, Rule::Restarting, "AH00297: SIGUSR1 received.  Doing graceful restart"),
    pattern(298, Rule::Restarting, "AH00298: SIGHUP received.  Attempting to restart"),
    pattern(
        489,
        Rule::Running,
        "AH00489: Apache/2.4.71 (Debian) OpenSSL/3.0.19 configured -- resuming normal operations",
    ),
    pattern(
        163,
        Rule::Running,
        "AH00163: Apache/2.4.71 (Debian) configured -- resuming normal operations",
    ),
    pattern(
        292,
        Rule::Running,
        "AH00292: Apache/2.4.71 (Debian) configured -- resuming normal operations",
    ),
    pattern(526, Rule::Refused, "AH00526: Syntax error on line 78 of /etc/apache2/apache2.conf:"),
];

/// What a message with this number says.
pub fn rule(code: u32) -> Option<Rule> {
    PATTERNS.iter().find(|pattern| pattern.code == code).map(|pattern| pattern.rule)
}

/// The fault of an error of the system or of APR (`apr_errno.h`): "111", "70007"; `None` without one.
pub fn fault(error: &str) -> Option<Fault> {
    Some(match error {
        "" => return None,
        // APR_TIMEUP, APR_INCOMPLETE, APR_EOF, APR_EGENERAL: the last two are how a close in order
        // is told.
        "70007" => Fault::Timeout,
        "70008" | "70014" | "20014" => Fault::Closed,
        "1" => Fault::Eperm,
        "2" => Fault::Enoent,
        "11" => Fault::Eagain,
        "13" => Fault::Eacces,
        "22" => Fault::Einval,
        "23" => Fault::Enfile,
        "24" => Fault::Emfile,
        "28" => Fault::Enospc,
        "32" => Fault::Epipe,
        "99" => Fault::Eaddrnotavail,
        "100" => Fault::Enetdown,
        "101" => Fault::Enetunreach,
        "104" => Fault::Econnreset,
        "105" => Fault::Enobufs,
        "110" => Fault::Etimedout,
        "111" => Fault::Econnrefused,
        "113" => Fault::Ehostunreach,
        "EAI 2" | "EAI 5" => Fault::DnsNotFound,
        _ if error.starts_with("EAI") => Fault::DnsFailed,
        _ => Fault::OtherErrno,
    })
}

/// What "... returned by /path" of AH00898 says failed: phase, fault where the message before it
/// has none, and what the
/// client was sent.
pub fn returned(words: &str) -> Option<(Phase, Option<Fault>, u16)> {
    let begins = |with: &str| words.starts_with(with);
    Some(match words {
        _ if begins("Error reading from remote server") => (Phase::Header, None, 502),
        _ if begins("Error during SSL Handshake") => (Phase::Tls, Some(Fault::TlsHandshake), 500),
        _ if begins("DNS lookup failure for") => (Phase::Resolve, None, 500),
        _ if begins("Timeout on 100-Continue") => (Phase::Header, Some(Fault::Timeout), 503),
        _ if begins("Corrupt status line")
            || begins("Unexpected Upgrade")
            || begins("Malformed connection header")
            || begins("Too many (") =>
        {
            (Phase::Header, Some(Fault::HeaderInvalid), 502)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::error_log::parse;
    use super::*;

    #[test]
    fn each_example_is_its_own_pattern_and_no_other() {
        for pattern in PATTERNS {
            let line = parse(pattern.example).unwrap();
            let same = PATTERNS.iter().filter(|other| other.code == line.code);
            assert_eq!((line.code, same.count()), (pattern.code, 1), "{}", pattern.example);
        }
    }

    #[test]
    fn errors() {
        assert_eq!(fault("111"), Some(Fault::Econnrefused));
        assert_eq!(fault("EAI 2"), Some(Fault::DnsNotFound));
        assert_eq!(fault("EAI 3"), Some(Fault::DnsFailed));
        assert_eq!((fault(""), fault("999")), (None, Some(Fault::OtherErrno)));
        assert_eq!(returned("DNS lookup failure for: x returned by /").unwrap().2, 500);
        assert_eq!(returned("Connect to remote machine blocked"), None);
    }
}
