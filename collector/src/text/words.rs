//! The closed sets of the view's messages (phase, error, confidence, state) in words.

use jiff::SignedDuration;
use why502_proto::v1;

use super::moment;

/// What the gateway felt, and when: `connection refused while connecting`.
pub(crate) fn felt(symptom: &v1::Symptom) -> String {
    let error = error(&symptom.error);
    match (error.as_str(), phase(&symptom.phase)) {
        ("", "") => "the request failed".to_owned(),
        ("", phase) => format!("failed {phase}"),
        (error, "") => error.to_owned(),
        (error, phase) => format!("{error} {phase}"),
    }
}

/// What the gateway felt, of a fact.
pub(crate) fn felt_by(failed: &v1::RequestFailed) -> String {
    felt(&v1::Symptom {
        phase: phase_name(failed.phase()),
        error: fault_name(failed.fault()),
        ..v1::Symptom::default()
    })
}

/// As the engine writes them: lower case, an errno in upper case; "": not known.
pub(crate) fn fault_name(fault: v1::Fault) -> String {
    let name = why502_proto::value_name(fault.as_str_name(), "FAULT");
    let errno = name.starts_with('e') && !name.contains('_');
    match fault {
        v1::Fault::Unspecified => String::new(),
        _ if errno => name.to_uppercase(),
        _ => name,
    }
}

/// "connect"; "": not known.
pub(crate) fn phase_name(phase: v1::Phase) -> String {
    match phase {
        v1::Phase::Unspecified => String::new(),
        phase => why502_proto::value_name(phase.as_str_name(), "PHASE"),
    }
}

fn phase(phase: &str) -> &'static str {
    match phase {
        "select" => "while choosing an endpoint",
        "resolve" => "while resolving the name",
        "connect" => "while connecting",
        "tls" => "in the TLS handshake",
        "send" => "while sending the request",
        "header" => "while waiting for the response",
        "body" => "in the middle of the response",
        _ => "",
    }
}

fn error(error: &str) -> String {
    let words = match error {
        "ECONNREFUSED" => "connection refused",
        "ECONNRESET" => "connection reset by the endpoint",
        "ENOENT" => "no such socket file",
        "EACCES" => "permission denied",
        "EAGAIN" => "the socket's queue is full",
        "EHOSTUNREACH" => "no route to the host",
        "ENETUNREACH" => "network unreachable",
        "EADDRNOTAVAIL" => "no local address or port left",
        "EPERM" => "forbidden by the gateway's own host",
        "EINVAL" => "invalid address",
        "ENOBUFS" => "no buffer space in the kernel",
        "EMFILE" => "too many open files in the gateway",
        "ENFILE" => "too many open files on the gateway's host",
        "EPIPE" => "connection closed by the endpoint",
        "ETIMEDOUT" => "the kernel gave up on the connection",
        "ENOSPC" => "no space left",
        "ENETDOWN" => "network down",
        "timeout" => "timed out",
        "closed" => "the endpoint closed the connection without an answer",
        "no_live_upstreams" => "no endpoint left that the gateway would ask",
        "relayed" => "the endpoint itself answered with this status",
        "header_too_big" => "response header too big",
        "header_invalid" => "invalid response header",
        "wrong_protocol" => "the endpoint speaks another protocol",
        "tls_handshake" => "TLS handshake failed",
        "tls_certificate" => "TLS certificate refused",
        "dns_not_found" => "the name does not exist",
        "dns_failed" => "the name server refused or failed",
        "dns_timeout" => "the name server did not answer",
        "no_resolver" => "no name server configured",
        "no_port" => "no port configured",
        "connection_limit" => "the gateway's connection limit is reached",
        "body_invalid" => "invalid response body",
        "rejected" => "the endpoint refused the request",
        "other_errno" => "the kernel refused",
        other => return other.replace('_', " "),
    };
    words.to_owned()
}

/// What a confidence rests on, for people who have not read the manual.
pub(crate) fn rests_on(confidence: &str) -> &'static str {
    match confidence {
        "proven" => "every step rests on a fact that names the same process, listener or file",
        "likely" => "a step rests on counters or on configuration",
        "possible" => "it fits, but nothing seen rules out other causes",
        _ => "",
    }
}

/// `1 request`, `142 requests`
pub(crate) fn counted(count: u64, one: &str) -> String {
    if count == 1 { format!("1 {one}") } else { format!("{count} {one}s") }
}

/// Where a request came from and where it should have gone: `gw-1 /api -> 10.0.0.7:8080`.
pub(crate) fn path(explanation: &v1::Explanation) -> String {
    let mut path = explanation.gateway.clone();
    if !explanation.route.is_empty() {
        path = format!("{path} {}", explanation.route);
    }
    let others = explanation.routes.iter().filter(|route| **route != explanation.route).count();
    if others > 0 {
        path = format!("{path} (and {})", counted(others as u64, "other route"));
    }
    if !explanation.endpoint.is_empty() {
        path = format!("{path} -> {}", explanation.endpoint);
    }
    path
}

/// `journal`, or `gateway /var/log/nginx/error.log` for a part of one.
pub(crate) fn source(source: &v1::HostSource) -> String {
    let name = source.source.replace('_', " ");
    if source.scope.is_empty() { name } else { format!("{name} {}", source.scope) }
}

/// A host's clock against the collector's: `2 ms ahead (± 1 ms)`.
pub(crate) fn clock(host: &v1::Host) -> String {
    let offset = SignedDuration::from_micros(host.clock_offset_us);
    let tolerance = i64::try_from(host.clock_tolerance_us).unwrap_or(i64::MAX);
    let tolerance = moment::span(SignedDuration::from_micros(tolerance));
    match offset.as_millis() {
        0 => format!("in step (± {tolerance})"),
        1.. => format!("{} ahead (± {tolerance})", moment::span(offset)),
        _ => format!("{} behind (± {tolerance})", moment::span(offset)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_phase_and_fault_has_words_of_its_own() {
        let mut seen = std::collections::BTreeSet::new();
        for fault in (1..100).filter_map(|number| v1::Fault::try_from(number).ok()) {
            let name = fault_name(fault);
            let words = error(&name);
            assert_ne!(words, name.replace('_', " "), "{name} has no words");
            assert!(seen.insert(words), "{name} has the words of another");
        }
        assert!(seen.len() > 30);
        for number in 1..100 {
            let Ok(value) = v1::Phase::try_from(number) else { continue };
            let name = why502_proto::value_name(value.as_str_name(), "PHASE");
            assert!(seen.insert(phase(&name).to_owned()) && !phase(&name).is_empty(), "{name}");
        }
    }

    #[test]
    fn unknown_words_of_a_newer_collector_are_shown_as_they_are() {
        let symptom = v1::Symptom { error: "moon_phase".into(), ..v1::Symptom::default() };
        assert_eq!(felt(&symptom), "moon phase");
        assert_eq!(felt(&v1::Symptom::default()), "the request failed");
    }
}
