//! TLS between gateway and service, by what the gateway says of the handshake.

use why502_proto::v1::{Fault, Phase, RequestFailed};

use super::Rule;
use super::listener::declared_at;
use crate::effect::Effect;
use crate::snapshot::Snapshot;
use crate::verdict::{Cause, Confidence, Verdict};

/// Words of TLS libraries that name one cause, with a real message each. OpenSSL (nginx, HAProxy, Apache), BoringSSL
/// (Envoy), Go (Caddy, Traefik).
struct Words {
    id: &'static str,
    /// One of these is in the message, in any case.
    any: &'static [&'static str],
    #[cfg_attr(not(test), expect(dead_code, reason = "the tests read them"))]
    examples: &'static [&'static str],
}

const WORDS: &[Words] = &[
    Words {
        id: "tls.cert_not_yet_valid",
        any: &[
            "certificate is not yet valid",
            "expired or is not yet valid: current time * is before",
        ],
        examples: &[
            "upstream SSL certificate verify error: (9:certificate is not yet valid)",
            "tls: failed to verify certificate: x509: certificate has expired or is not yet valid: current time \
             2026-01-01T00:00:00Z is before 2027-01-01T00:00:00Z",
        ],
    },
    Words {
        id: "tls.cert_expired",
        any: &[
            "(10:certificate has expired",
            "expired or is not yet valid: current time * is after",
            "reason: certificate has expired",
            "error:10:certificate has expired",
        ],
        examples: &[
            "upstream SSL certificate verify error: (10:certificate has expired)",
            "tls: failed to verify certificate: x509: certificate has expired or is not yet valid: current time \
             2026-01-01T00:00:00Z is after 2025-12-31T00:00:00Z",
        ],
    },
    Words {
        id: "tls.name_mismatch",
        any: &[
            "ssl certificate does not match",
            "presented an ssl certificate different from the expected one",
            "certificate is valid for *, not ",
            "doesn't contain any ip sans",
            "verify san list",
            "certificate is not valid for any names",
        ],
        examples: &[
            "upstream SSL certificate does not match \"app.internal\"",
            "Server presented an SSL certificate different from the expected one",
            "tls: failed to verify certificate: x509: certificate is valid for a.example, not b.example",
            "x509: cannot validate certificate for 10.0.0.7 because it doesn't contain any IP SANs",
        ],
    },
    Words {
        id: "tls.cert_untrusted",
        any: &[
            "self-signed certificate",
            "self signed certificate",
            "unable to get local issuer certificate",
            "unable to get issuer certificate",
            "unable to verify the first certificate",
            "certificate signed by unknown authority",
        ],
        examples: &[
            "upstream SSL certificate verify error: (18:self-signed certificate)",
            "upstream SSL certificate verify error: (20:unable to get local issuer certificate)",
            "upstream SSL certificate verify error: (21:unable to verify the first certificate)",
            "tls: failed to verify certificate: x509: certificate signed by unknown authority",
        ],
    },
    Words {
        id: "tls.upstream_is_plain",
        any: &[
            "wrong version number",
            "first record does not look like a tls handshake",
            "server gave http response to https client",
        ],
        examples: &[
            "SSL_do_handshake() failed (SSL: error:0A00010B:SSL routines::wrong version number)",
            "tls: first record does not look like a TLS handshake",
            "http: server gave HTTP response to HTTPS client",
        ],
    },
    Words {
        id: "tls.sni_required",
        any: &["unrecognized name"],
        examples: &[
            "SSL_do_handshake() failed (SSL: error:0A000458:SSL routines::tlsv1 unrecognized name:SSL alert number 112)",
            "remote error: tls: unrecognized name",
        ],
    },
    Words {
        id: "tls.version_or_cipher",
        any: &[
            "alert protocol version",
            "protocol version not supported",
            "no protocols available",
            "unsupported protocol",
            "legacy sigalg disallowed",
            "no shared cipher",
            "dh key too small",
            "ee key too small",
        ],
        examples: &[
            "SSL_do_handshake() failed (SSL: error:0A00042E:SSL routines::tlsv1 alert protocol version:SSL alert number 70)",
            "remote error: tls: protocol version not supported",
        ],
    },
    Words {
        id: "tls.client_cert_required",
        any: &["certificate required"],
        examples: &[
            "SSL_read() failed (SSL: error:0A00045C:SSL routines::tlsv13 alert certificate required:SSL alert number 116)",
            "remote error: tls: certificate required",
        ],
    },
];

/// A rule that rests on [`WORDS`].
const fn rule(
    id: &'static str,
    summary: &'static str,
    doc: &'static str,
    check: &'static str,
    fix: &'static str,
    judge: for<'a> fn(&'a Snapshot, &Effect<'a>) -> Verdict<'a>,
) -> Rule {
    Rule {
        id,
        summary,
        doc,
        check,
        fix,
        applies_to: |effect| matches!(effect, Effect::Failed { place: Some(_), .. }),
        judge,
    }
}

const SHOW: &str = "openssl s_client -connect {endpoint} -showcerts </dev/null | openssl x509 -noout -dates -subject \
                    -ext subjectAltName";

pub(super) const RULES: &[Rule] = &[
    rule(
        "tls.cert_not_yet_valid",
        "the service's certificate is not valid yet",
        "The handshake fails with verify error 9: a new certificate was put in place too early, or a clock is wrong.",
        SHOW,
        "look at the clocks of both hosts (timedatectl); else put the old certificate back until the new one is valid",
        |_, effect| says(effect, "tls.cert_not_yet_valid", "is not valid yet"),
    ),
    rule(
        "tls.cert_expired",
        "the service's certificate has expired",
        "The handshake fails with verify error 10. A certificate that was renewed on disk and not taken by the running \
         program looks the same.",
        SHOW,
        "renew the certificate of {endpoint}, and reload the program that serves it",
        |_, effect| says(effect, "tls.cert_expired", "has expired"),
    ),
    rule(
        "tls.name_mismatch",
        "the service's certificate is for another name",
        "The handshake fails because the name that the gateway asks for is not in the certificate.",
        SHOW,
        "let the gateway ask for a name that the certificate has (nginx: proxy_ssl_name), or issue one with that name",
        |_, effect| says(effect, "tls.name_mismatch", "is for another name"),
    ),
    rule(
        "tls.cert_untrusted",
        "the gateway does not trust the service's certificate",
        "Verify errors 18 to 21: it is self-signed, its issuer is not among the gateway's authorities, or the service \
         does not send the certificate in between.",
        SHOW,
        "give the gateway the authority that signed it (nginx: proxy_ssl_trusted_certificate), or let the service send \
         the whole chain",
        |_, effect| says(effect, "tls.cert_untrusted", "is not trusted by the gateway"),
    ),
    rule(
        "tls.upstream_is_plain",
        "the gateway speaks TLS to a port that does not",
        "\"wrong version number\": what came back is no TLS.",
        "curl -si http://{endpoint}/ -o /dev/null -w '%{http_code}'",
        "let the gateway use http:// for {endpoint}{place}, or name the service's TLS port",
        plain,
    ),
    rule(
        "tls.sni_required",
        "the service wants the name of the server, and the gateway does not send it",
        "Alert 112, \"unrecognized name\".",
        "openssl s_client -connect {endpoint} -noservername </dev/null",
        "let the gateway send the name (nginx: proxy_ssl_server_name on, proxy_ssl_name)",
        |_, effect| says(effect, "tls.sni_required", "is not asked for by its name"),
    ),
    rule(
        "tls.version_or_cipher",
        "gateway and service have no TLS version, cipher or signature in common",
        "Alert 70 or a refusal of the library's own: one side is much older than the other.",
        "openssl s_client -connect {endpoint} </dev/null",
        "let both allow one common version (nginx: proxy_ssl_protocols), better by updating the older one",
        |_, effect| {
            says(effect, "tls.version_or_cipher", "has no TLS version in common with the gateway")
        },
    ),
    rule(
        "tls.client_cert_required",
        "the service wants a certificate of the gateway, and gets none",
        "Alert 116; with TLS 1.3 it comes only after the handshake.",
        "openssl s_client -connect {endpoint} </dev/null | grep -i 'acceptable client'",
        "give the gateway a certificate that the service takes (nginx: proxy_ssl_certificate, \
         proxy_ssl_certificate_key)",
        |_, effect| says(effect, "tls.client_cert_required", "wants a certificate of the gateway"),
    ),
    Rule {
        id: "tls.handshake_timeout",
        summary: "the TLS handshake with the service does not end in time",
        doc: "The connection is there and nothing comes back: the port speaks no TLS and waits for a request, the process \
                hangs, or large packets are lost on the way.",
        check: "openssl s_client -connect {endpoint} </dev/null",
        fix: "see whether {endpoint} speaks TLS at all; if it does, what keeps its process",
        applies_to: |effect| {
            matches!(effect, Effect::Failed { failed, .. }
                if (failed.what.phase(), failed.what.fault()) == (Phase::Tls, Fault::Timeout))
        },
        judge: handshake_timeout,
    },
];

/// Which cause the message names.
fn named(message: &str) -> Option<&'static str> {
    let message = message.to_ascii_lowercase();
    let is = |words: &&Words| words.any.iter().any(|pattern| holds(&message, pattern));
    WORDS.iter().find(is).map(|words| words.id)
}

/// The parts between `*` stand in the message, one after another.
fn holds(message: &str, pattern: &str) -> bool {
    let mut rest = message;
    pattern.split('*').all(|part| match rest.split_once(part) {
        Some((_, after)) => {
            rest = after;
            true
        }
        None => false,
    })
}

fn is_tls(failed: &RequestFailed) -> bool {
    failed.phase() == Phase::Tls
        || matches!(failed.fault(), Fault::TlsHandshake | Fault::TlsCertificate)
}

fn says<'a>(effect: &Effect<'a>, id: &str, clause: &str) -> Verdict<'a> {
    let Effect::Failed { gateway, place: Some(place), failed, .. } = *effect else {
        return Verdict::NoSign;
    };
    if !is_tls(failed.what) || named(&failed.what.message) != Some(id) {
        return Verdict::NoSign;
    }
    let whose = if id.starts_with("tls.cert") || id == "tls.name_mismatch" {
        format!("the certificate of {}", place.endpoint)
    } else {
        place.endpoint.to_owned()
    };
    let what = format!("{whose} {clause}");
    let host = place.host().unwrap_or(gateway);
    Cause::new(host, failed.at_us(), Confidence::Proven, what.clone())
        .text(format!("{what}: {gateway} says \"{}\".", failed.what.message))
        .because([failed.seen])
        .name("endpoint", place.endpoint)
        .explained()
}

fn plain<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    match says(effect, "tls.upstream_is_plain", "does not speak TLS, and the gateway does") {
        Verdict::Explained(cause) => {
            let place = effect.place();
            let declared = place.map(|p| declared_at(snapshot, &p)).unwrap_or_default();
            cause.name("place", declared).explained()
        }
        other => other,
    }
}

fn handshake_timeout<'a>(_: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Failed { gateway, place: Some(place), failed, .. } = *effect else {
        return Verdict::NoSign;
    };
    let what = format!("{} does not finish the TLS handshake", place.endpoint);
    Cause::new(place.host().unwrap_or(gateway), failed.at_us(), Confidence::Likely, what)
        .because([failed.seen])
        .name("endpoint", place.endpoint)
        .explained()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_names_its_own_cause() {
        for words in WORDS {
            for example in words.examples {
                assert_eq!(named(example), Some(words.id), "{example}");
            }
            for pattern in words.any {
                let own = WORDS.iter().find(|w| w.any.iter().any(|p| holds(pattern, p)));
                assert_eq!(own.map(|w| w.id), Some(words.id), "{pattern}");
            }
            assert!(RULES.iter().any(|rule| rule.id == words.id), "{}", words.id);
        }
        // An alert that several causes share names none.
        let alert = "SSL_do_handshake() failed (SSL: error:0A000410:SSL routines::sslv3 alert handshake failure:SSL \
                     alert number 40)";
        assert_eq!(named(alert), None);
    }
}
