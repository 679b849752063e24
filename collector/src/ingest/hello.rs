//! What a stream may call itself, and why it may not.

use why502_proto::v1;

use crate::clock::BOOTTIME_MAX_US;

/// The protocol version that this collector speaks.
pub const PROTOCOL: u32 = 1;
/// Longest host name (RFC 1035, section 2.3.4).
const HOST_MAX: usize = 253;
/// Longest boot id: a UUID is 36.
const BOOT_MAX: usize = 64;
/// Longest version text.
const VERSION_MAX: usize = 64;

/// Why a stream is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A message is malformed or comes out of order.
    #[error("{0}")]
    Invalid(String),
    /// The two programs do not understand each other.
    #[error(
        "agent {agent} speaks protocol {min} to {max}, this collector speaks {PROTOCOL}: upgrade the older one"
    )]
    Protocol {
        /// Version of the agent program.
        agent: String,
        /// Lowest it speaks.
        min: u32,
        /// Highest it speaks.
        max: u32,
    },
    /// A certificate was asked for.
    #[error("this collector asks for a client certificate (tls-cert and tls-key of the agent)")]
    NoCertificate,
    /// The certificate is another host's.
    #[error("the certificate names {}, so it may not speak for {host}", names.join(", "))]
    NotYou {
        /// Host in the hello.
        host: String,
        /// Hosts in the certificate.
        names: Vec<String>,
    },
    /// Another stream speaks for the host.
    #[error("{host} has a stream already, from {peer}: two agents with one name?")]
    Taken {
        /// The host.
        host: String,
        /// Where the other stream comes from.
        peer: String,
    },
    /// A bound is reached.
    #[error("{0}")]
    Bound(String),
}

/// Who a connection proved to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// No TLS: it may call itself anything.
    Plaintext,
    /// Names of hosts in its certificate.
    Certificate(Vec<String>),
    /// TLS, and no certificate was shown.
    Anonymous,
}

/// Checks a hello against who sent it. `own` is the name under which the collector itself writes facts.
pub(super) fn check(hello: &v1::Hello, identity: &Identity, own: &str) -> Result<(), Refusal> {
    let invalid = |what: String| Err(Refusal::Invalid(what));
    if !is_host_name(&hello.host) {
        return invalid(format!(
            "{:?} is not a host name: 1 to {HOST_MAX} letters, digits, '-', '_' and '.', beginning with a \
             letter or digit",
            clipped(&hello.host)
        ));
    }
    if hello.host == own {
        return invalid(format!("{own} is the collector's own name in the facts"));
    }
    if !is_boot_id(&hello.boot_id) {
        return invalid(format!("{:?} is not a boot id", clipped(&hello.boot_id)));
    }
    if hello.boottime_us > BOOTTIME_MAX_US {
        return invalid(format!("no host is up since {} us", hello.boottime_us));
    }
    match identity {
        Identity::Plaintext => {}
        Identity::Anonymous => return Err(Refusal::NoCertificate),
        Identity::Certificate(names) if names.contains(&hello.host) => {}
        Identity::Certificate(names) => {
            return Err(Refusal::NotYou { host: hello.host.clone(), names: names.clone() });
        }
    }
    if !(hello.protocol_min..=hello.protocol_max).contains(&PROTOCOL) {
        return Err(Refusal::Protocol {
            agent: clipped(&hello.agent_version).to_owned(),
            min: hello.protocol_min,
            max: hello.protocol_max,
        });
    }
    Ok(())
}

/// A boot id as any system writes it: letters, digits and '-'.
pub(super) fn is_boot_id(text: &str) -> bool {
    (1..=BOOT_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
}

/// A host name: no character that means something in a fact's name, a file name or a terminal.
pub fn is_host_name(text: &str) -> bool {
    (1..=HOST_MAX).contains(&text.len())
        && text.as_bytes().first().is_some_and(u8::is_ascii_alphanumeric)
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
}

/// Text of a peer, short enough to be shown.
pub(super) fn clipped(text: &str) -> &str {
    text.get(..text.floor_char_boundary(VERSION_MAX)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello() -> v1::Hello {
        v1::Hello {
            host: "app-1".into(),
            boot_id: "0b7a1c2e-7d53-4a2f-9f55-1a2b3c4d5e6f".into(),
            protocol_min: 1,
            protocol_max: 1,
            ..v1::Hello::default()
        }
    }

    /// What is said to a hello that `change` made.
    fn check_hello(identity: Identity, change: impl FnOnce(&mut v1::Hello)) -> String {
        let mut hello = hello();
        change(&mut hello);
        check(&hello, &identity, "why502-collector")
            .map_or_else(|r| r.to_string(), |()| "ok".into())
    }

    #[test]
    fn names_that_could_be_read_as_something_else_are_refused() {
        for good in ["app-1", "10.0.0.7", "a.example.com", "A_b"] {
            assert_eq!(check_hello(Identity::Plaintext, |h| h.host = good.into()), "ok", "{good}");
        }
        for bad in ["", "-x", ".", "a/b", "a b", "\u{e9}", "a\n", &"x".repeat(254)] {
            let said = check_hello(Identity::Plaintext, |h| h.host = bad.into());
            assert!(said.contains("is not a host name"), "{bad:?}: {said}");
        }
        let said = check_hello(Identity::Plaintext, |h| h.host = "why502-collector".into());
        assert!(said.contains("own name"), "{said}");
    }

    #[test]
    fn a_certificate_speaks_for_its_own_host_only() {
        let names =
            |names: &[&str]| Identity::Certificate(names.iter().map(|n| (*n).into()).collect());
        assert_eq!(check_hello(names(&["gw", "app-1"]), |_| {}), "ok");
        let said = check_hello(names(&["app-2"]), |_| {});
        assert_eq!(said, "the certificate names app-2, so it may not speak for app-1");
        assert!(check_hello(Identity::Anonymous, |_| {}).contains("client certificate"));
    }

    #[test]
    fn versions_must_overlap() {
        assert_eq!(check_hello(Identity::Plaintext, |h| h.protocol_max = 7), "ok");
        let said = check_hello(Identity::Plaintext, |h| (h.protocol_min, h.protocol_max) = (2, 3));
        assert!(said.contains("speaks protocol 2 to 3, this collector speaks 1"), "{said}");
        let said = check_hello(Identity::Plaintext, |h| h.protocol_min = 2);
        assert!(said.contains("speaks protocol 2 to 1"), "{said}");
    }

    #[test]
    fn an_absurd_boot_time_is_refused() {
        let said = check_hello(Identity::Plaintext, |h| h.boottime_us = u64::MAX);
        assert!(said.contains("no host is up since"), "{said}");
    }
}
