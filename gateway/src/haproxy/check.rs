//! What a health check felt: `check_statuses` of src/check.c, in logs by its words and in `show stat` by its code.

use why502_proto::v1::{Fault, Phase};

/// Words of logs, code of `show stat`, phase, and the fault that is meant without more words.
const STATUSES: [(&str, &str, Phase, Fault); 14] = [
    ("Layer4 timeout", "L4TOUT", Phase::Connect, Fault::Timeout),
    ("Layer4 connection problem", "L4CON", Phase::Connect, Fault::Unspecified),
    ("Layer6 timeout", "L6TOUT", Phase::Tls, Fault::Timeout),
    ("Layer6 invalid response", "L6RSP", Phase::Tls, Fault::TlsHandshake),
    ("Layer7 timeout", "L7TOUT", Phase::Header, Fault::Timeout),
    ("Layer7 invalid response", "L7RSP", Phase::Header, Fault::Unspecified),
    ("Layer7 wrong status", "L7STS", Phase::Header, Fault::Unspecified),
    ("Socket error", "SOCKERR", Phase::Unspecified, Fault::Unspecified),
    ("Internal error", "UNK", Phase::Unspecified, Fault::Unspecified),
    ("External check error", "PROCERR", Phase::Unspecified, Fault::Unspecified),
    ("External check timeout", "PROCTOUT", Phase::Unspecified, Fault::Timeout),
    ("Health analyze", "HANA", Phase::Unspecified, Fault::Unspecified),
    ("Layer4 check passed", "L4OK", Phase::Unspecified, Fault::Unspecified),
    ("Layer7 check passed", "L7OK", Phase::Unspecified, Fault::Unspecified),
];

/// Words of strerror(3), and HAProxy's own (`conn_err_code_str` of src/connection.c).
const WORDS: [(&str, Fault); 30] = [
    ("connection refused", Fault::Econnrefused),
    ("connection reset by peer", Fault::Econnreset),
    ("no such file or directory", Fault::Enoent),
    ("permission denied", Fault::Eacces),
    ("resource temporarily unavailable", Fault::Eagain),
    ("no route to host", Fault::Ehostunreach),
    ("network is unreachable", Fault::Enetunreach),
    ("network is down", Fault::Enetdown),
    ("cannot assign requested address", Fault::Eaddrnotavail),
    ("operation not permitted", Fault::Eperm),
    ("too many open files in system", Fault::Enfile),
    ("too many open files", Fault::Emfile),
    ("broken pipe", Fault::Epipe),
    ("connection timed out", Fault::Etimedout),
    ("econnrefused", Fault::Econnrefused),
    ("econnreset", Fault::Econnreset),
    ("enetunreach", Fault::Enetunreach),
    ("epipe", Fault::Epipe),
    ("too many sockets on the process", Fault::Emfile),
    ("too many sockets on the system", Fault::Enfile),
    ("reached configured maxconn value", Fault::ConnectionLimit),
    ("out of system buffers", Fault::Enobufs),
    ("source port range exhausted", Fault::Eaddrnotavail),
    ("out of local source ports", Fault::Eaddrnotavail),
    ("source address already in use", Fault::Eaddrnotavail),
    ("bind to source address", Fault::Eaddrnotavail),
    ("ca chain cannot be verified", Fault::TlsCertificate),
    ("server presented an ssl certificate", Fault::TlsCertificate),
    ("timeout during ssl handshake", Fault::Timeout),
    ("ssl handshake", Fault::TlsHandshake),
];

/// The fault that words name.
pub fn named(text: &str) -> Option<Fault> {
    let text = text.to_ascii_lowercase();
    WORDS.iter().find(|(words, _)| text.contains(words)).map(|(_, fault)| *fault)
}

/// What a check felt, by the words of a log or the code of `show stat`; `status` is what an HTTP check was answered.
pub fn felt(reason: &str, status: &str, info: &str) -> (Phase, Fault) {
    let reason = reason.trim_start_matches("* ");
    let known = STATUSES.iter().find(|(words, code, ..)| reason == *words || reason == *code);
    let Some(&(_, code, phase, fault)) = known else {
        return (Phase::Unspecified, Fault::Unspecified);
    };
    match (code, named(info)) {
        ("L7STS", _) if matches!(status, "502" | "503" | "504") => (phase, Fault::Relayed),
        ("L7STS" | "L7RSP" | "HANA", _) => (phase, fault),
        // Felt while connecting, or later: only some errors say which.
        ("SOCKERR", Some(named @ (Fault::Econnreset | Fault::Epipe))) => (Phase::Header, named),
        ("SOCKERR", Some(named)) => (Phase::Connect, named),
        ("L6RSP", Some(named @ Fault::TlsCertificate)) => (phase, named),
        ("L4CON", Some(named)) => (phase, named),
        _ => (phase, fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(reason: &str, status: &str, info: &str, phase: Phase, fault: Fault) {
        assert_eq!(felt(reason, status, info), (phase, fault), "{reason} {info}");
    }

    #[test]
    fn as_a_live_haproxy_said() {
        check("L4CON", "", "Connection refused", Phase::Connect, Fault::Econnrefused);
        let unreachable = "General socket error (Network is unreachable)";
        check("Layer4 connection problem", "", unreachable, Phase::Connect, Fault::Enetunreach);
        let missing = "General socket error (No such file or directory)";
        check("Socket error", "", missing, Phase::Connect, Fault::Enoent);
        check("SOCKERR", "", "Connection reset by peer", Phase::Header, Fault::Econnreset);
        check("* L7TOUT", "", "", Phase::Header, Fault::Timeout);
        check("L7STS", "502", "Bad Gateway", Phase::Header, Fault::Relayed);
        check("Layer7 wrong status", "404", "Not Found", Phase::Header, Fault::Unspecified);
        check("L6RSP", "", "SSL handshake failure", Phase::Tls, Fault::TlsHandshake);
        check("L6TOUT", "", "", Phase::Tls, Fault::Timeout);
        check("", "", "", Phase::Unspecified, Fault::Unspecified);
    }
}
