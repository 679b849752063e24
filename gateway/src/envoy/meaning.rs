//! What response flags and details mean: tables with an example of each, as Envoy 1.40 wrote it.
//!
//! Flags: envoyproxy.io/docs, "Access logging", `%RESPONSE_FLAGS%`; details: "Response Code Details".

use why502_proto::v1::{Fault, Phase};

use crate::errno;

/// How the fault of a flag is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// No connection: the reason, if the line has one, says why.
    Connect,
    Is(Phase, Fault),
    /// The gateway waited too long for an answer.
    Timeout,
    /// Of another flag's failure, or none of an upstream's.
    Nothing,
}

/// Short name, long name, and what it means. The first that a line has decides.
const FLAGS: [(&str, &str, Rule); 17] = [
    ("UF", "UpstreamConnectionFailure", Rule::Connect),
    ("UH", "NoHealthyUpstream", Rule::Is(Phase::Select, Fault::NoLiveUpstreams)),
    ("NC", "NoClusterFound", Rule::Is(Phase::Select, Fault::NoLiveUpstreams)),
    ("UO", "UpstreamOverflow", Rule::Is(Phase::Select, Fault::ConnectionLimit)),
    // FIN and RST are one to it.
    ("UC", "UpstreamConnectionTermination", Rule::Is(Phase::Header, Fault::Closed)),
    ("UR", "UpstreamRemoteReset", Rule::Is(Phase::Header, Fault::Rejected)),
    // No HTTP, a header that is too big, a bad line: all are a "protocol error".
    ("UPE", "UpstreamProtocolError", Rule::Is(Phase::Header, Fault::Unspecified)),
    ("UT", "UpstreamRequestTimeout", Rule::Timeout),
    ("UMSDR", "UpstreamMaxStreamDurationReached", Rule::Timeout),
    ("SI", "StreamIdleTimeout", Rule::Timeout),
    ("DF", "DnsResolutionFailed", Rule::Is(Phase::Resolve, Fault::DnsFailed)),
    ("LR", "LocalReset", Rule::Is(Phase::Unspecified, Fault::Unspecified)),
    // Its own answers, and clients that went away.
    ("DC", "DownstreamConnectionTermination", Rule::Nothing),
    ("DPE", "DownstreamProtocolError", Rule::Nothing),
    ("NR", "NoRouteFound", Rule::Nothing),
    ("RL", "RateLimited", Rule::Nothing),
    ("UAEX", "UnauthorizedExternalService", Rule::Nothing),
];

/// What a line says of a failure.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Said<'a> {
    pub(super) flags: &'a str,
    pub(super) details: &'a str,
    pub(super) transport: &'a str,
    pub(super) duration_ms: Option<u64>,
    /// Of the cluster, where it is known.
    pub(super) connect_ms: Option<u64>,
    /// The cluster speaks TLS; `None`: not known.
    pub(super) tls: Option<bool>,
    /// The peer had begun to answer.
    pub(super) answered: bool,
}

/// Where and how a request failed at its upstream; `None`: it did not, or not for a reason of the upstream's.
pub(super) fn failure(said: Said<'_>) -> Option<(Phase, Fault)> {
    let has = |name: &&(&str, &str, Rule)| {
        said.flags.split(',').any(|flag| flag == name.0 || flag == name.1)
    };
    // A client that went away takes its upstream connection along.
    if said.flags.split(',').any(|flag| flag == "DC" || flag == "DownstreamConnectionTermination") {
        return None;
    }
    let (.., rule) = FLAGS.iter().find(has)?;
    let (phase, fault) = match rule {
        Rule::Connect => connect(said),
        Rule::Is(phase, fault) => (*phase, *fault),
        Rule::Timeout => {
            // The timer runs from the end of the request, so it may end while a slow connect still goes on.
            let connected = said.connect_ms.zip(said.duration_ms).is_none_or(|(c, d)| c <= d);
            (if connected { Phase::Header } else { Phase::Unspecified }, Fault::Timeout)
        }
        Rule::Nothing => return None,
    };
    if !said.answered {
        return Some((phase, fault));
    }
    let fault = if fault == Fault::Unspecified { Fault::BodyInvalid } else { fault };
    Some((Phase::Body, fault))
}

/// UF: connect and TLS are one to it.
fn connect(said: Said<'_>) -> (Phase, Fault) {
    let reason = if said.transport.is_empty() { said.details } else { said.transport };
    if let Some(found) = reason_of(reason).or_else(|| reason_of(said.details)) {
        let tls = said.tls.unwrap_or(false) && found == (Phase::Connect, Fault::Timeout);
        return if tls { (Phase::Unspecified, Fault::Timeout) } else { found };
    }
    let phase = if said.tls == Some(false) { Phase::Connect } else { Phase::Unspecified };
    // Tried once, and given up when its time was over: timers are a few milliseconds early or late.
    let once = !said.flags.contains("URX") || said.flags == "UF,URX";
    let waited = said.connect_ms.zip(said.duration_ms);
    let expired = once
        && waited.is_some_and(|(limit, took)| {
            took.saturating_mul(100) >= limit.saturating_mul(95) && limit > 0
        });
    (phase, if expired { Fault::Timeout } else { Fault::Unspecified })
}

/// What `%UPSTREAM_TRANSPORT_FAILURE_REASON%` or the details say.
fn reason_of(text: &str) -> Option<(Phase, Fault)> {
    if text.contains("CERTIFICATE_VERIFY_FAILED") {
        return Some((Phase::Tls, Fault::TlsCertificate));
    }
    if text.contains("TLS_error") || text.contains("TLS error") {
        return Some((Phase::Tls, Fault::TlsHandshake));
    }
    if let Some(at) = text.find("connect_error:").or_else(|| text.find("connect error:")) {
        let rest = &text[at + "connect_error:".len()..];
        let fault = errno::in_text(rest).or_else(|| number(rest)).unwrap_or(Fault::OtherErrno);
        return Some((Phase::Connect, fault));
    }
    let timeout = text.contains("connection_timeout") || text.contains("connection timeout");
    timeout.then_some((Phase::Connect, Fault::Timeout))
}

/// Versions before 1.26 have the number: "delayed connect error: 111".
fn number(text: &str) -> Option<Fault> {
    let text = text.trim_start_matches(['_', ' ']);
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    match text[..end].parse::<u32>().ok()? {
        2 => Some(Fault::Enoent),
        11 => Some(Fault::Eagain),
        13 => Some(Fault::Eacces),
        99 => Some(Fault::Eaddrnotavail),
        101 => Some(Fault::Enetunreach),
        104 => Some(Fault::Econnreset),
        110 => Some(Fault::Etimedout),
        111 => Some(Fault::Econnrefused),
        113 => Some(Fault::Ehostunreach),
        _ => Some(Fault::OtherErrno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(flags: &str, details: &str, transport: &str, expected: (Phase, Fault)) {
        let said = Said { flags, details, transport, tls: Some(false), ..Said::default() };
        assert_eq!(failure(said), Some(expected), "{flags} {details}");
    }

    #[test]
    fn reasons_as_versions_write_them() {
        let before = |reason: &str| format!("upstream_reset_before_response_started{{{reason}}}");
        for (reason, expected) in [
            (
                "remote_connection_failure|delayed_connect_error:_Connection_refused",
                (Phase::Connect, Fault::Econnrefused),
            ),
            (
                "remote_connection_failure|immediate_connect_error:_No_such_file_or_directory|remote_address:/run/a.sock",
                (Phase::Connect, Fault::Enoent),
            ),
            (
                "remote_connection_failure|immediate_connect_error:_Resource_temporarily_unavailable|remote_address:/run/a.sock",
                (Phase::Connect, Fault::Eagain),
            ),
            (
                "remote_connection_failure|delayed_connect_error:_No_route_to_host",
                (Phase::Connect, Fault::Ehostunreach),
            ),
            ("connection_timeout", (Phase::Connect, Fault::Timeout)),
            (
                "connection failure,delayed connect error: 111",
                (Phase::Connect, Fault::Econnrefused),
            ),
            (
                "remote_connection_failure|TLS_error:|268435703:SSL_routines:OPENSSL_internal:WRONG_VERSION_NUMBER:TLS_error_end",
                (Phase::Tls, Fault::TlsHandshake),
            ),
            (
                "remote_connection_failure|TLS_error:|268435581:SSL_routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify_cert_failed",
                (Phase::Tls, Fault::TlsCertificate),
            ),
        ] {
            check("UF", &before(reason), "", expected);
            check("UF,URX", "", reason, expected);
        }
    }

    #[test]
    fn a_flag_alone() {
        check("UF", "", "", (Phase::Connect, Fault::Unspecified));
        check("URX,UF", "", "", (Phase::Connect, Fault::Unspecified));
        check("UC", "", "", (Phase::Header, Fault::Closed));
        check("NoHealthyUpstream", "", "", (Phase::Select, Fault::NoLiveUpstreams));
        check("URX,UT", "upstream_per_try_timeout", "", (Phase::Header, Fault::Timeout));
        for flags in ["", "-", "DC", "UF,DC", "NR", "RL", "URX"] {
            assert_eq!(failure(Said { flags, ..Said::default() }), None, "{flags}");
        }
    }

    #[test]
    fn how_long_it_took_tells_a_timeout() {
        let said = |duration_ms, tls| Said {
            flags: "UF",
            duration_ms: Some(duration_ms),
            connect_ms: Some(500),
            tls: Some(tls),
            ..Said::default()
        };
        assert_eq!(failure(said(493, false)), Some((Phase::Connect, Fault::Timeout)));
        assert_eq!(failure(said(400, false)), Some((Phase::Connect, Fault::Unspecified)));
        assert_eq!(failure(said(493, true)), Some((Phase::Unspecified, Fault::Timeout)));
    }

    #[test]
    fn after_the_header() {
        let said = |flags| Said { flags, answered: true, ..Said::default() };
        assert_eq!(failure(said("UC")), Some((Phase::Body, Fault::Closed)));
        assert_eq!(failure(said("UPE")), Some((Phase::Body, Fault::BodyInvalid)));
        assert_eq!(failure(said("UT")), Some((Phase::Body, Fault::Timeout)));
    }

    #[test]
    fn every_flag_has_two_names_of_its_own() {
        let mut names: Vec<&str> =
            FLAGS.iter().flat_map(|(short, long, _)| [*short, *long]).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), FLAGS.len() * 2);
    }
}
