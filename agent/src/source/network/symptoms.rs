//! Looks that a symptom asks for, each at most once in a while.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use why502_proto::v1::{AppEvent, Fault, RequestFailed};
use why502_proto::{Kind, v1};

use crate::observe::{Notices, Observer};
use crate::source::Roots;
use crate::source::gateway::names;
use crate::source::limits;
use crate::source::sock_diag::SockDiag;

/// The same look is not taken again before.
const PAUSE: Duration = Duration::from_secs(5);
/// A name is not looked up again before.
const PAUSE_NAME: Duration = Duration::from_secs(15);
/// Looks that are remembered.
const LOOKS_MAX: usize = 1024;

pub(super) struct Symptoms {
    roots: Roots,
    observer: Observer,
    /// Until when each look is not to be taken again.
    looked: BTreeMap<String, Instant>,
}

impl Symptoms {
    pub(super) fn new(roots: Roots, observer: Observer) -> Self {
        Self { roots, observer, looked: BTreeMap::new() }
    }

    pub(super) fn act(&mut self, symptom: &Kind, notices: &Arc<Notices>) {
        match symptom {
            Kind::RequestFailed(failed) => self.failed(failed, notices),
            Kind::AcceptQueue(queue) => self.count_files(queue.pid),
            Kind::AppServerEvent(said) if said.event() == AppEvent::FdsExhausted => {
                self.count_files(said.pid);
            }
            Kind::AppServerEvent(said) if said.event() == AppEvent::ForkFailed => {
                self.count_forks(said.pid);
            }
            _ => {}
        }
    }

    fn failed(&mut self, failed: &RequestFailed, notices: &Arc<Notices>) {
        let Ok(peer) = failed.endpoint.parse::<SocketAddr>() else { return };
        match failed.fault() {
            Fault::Eaddrnotavail if self.may_look(&format!("ports {peer}"), PAUSE) => {
                self.count_ports(peer);
            }
            Fault::Econnrefused
            | Fault::Ehostunreach
            | Fault::Enetunreach
            | Fault::Timeout
            | Fault::Unspecified
                if failed.phase() == v1::Phase::Connect =>
            {
                self.ask_names(failed, peer, notices);
            }
            _ => {}
        }
    }

    fn may_look(&mut self, what: &str, pause: Duration) -> bool {
        let now = Instant::now();
        if self.looked.get(what).is_some_and(|until| now < *until) {
            return false;
        }
        if self.looked.len() >= LOOKS_MAX {
            self.looked.retain(|_, until| now < *until);
        }
        // A flood of different symptoms waits for the next pause.
        let room = self.looked.len() < LOOKS_MAX;
        if room {
            self.looked.insert(what.to_owned(), now + pause);
        }
        room
    }

    fn count_files(&mut self, pid: u32) {
        if pid != 0 && self.may_look(&format!("files {pid}"), PAUSE) {
            let looked = limits::files(&self.roots.proc, pid);
            looked.into_iter().for_each(|fact| self.observer.observe(fact));
        }
    }

    fn count_forks(&mut self, pid: u32) {
        if pid != 0 && self.may_look(&format!("forks {pid}"), PAUSE) {
            let looked = limits::forks_of(&self.roots, pid);
            looked.into_iter().for_each(|fact| self.observer.observe(fact));
        }
    }

    fn count_ports(&self, peer: SocketAddr) {
        let path = self.roots.proc.join("sys/net/ipv4/ip_local_port_range");
        let Ok(text) = std::fs::read_to_string(path) else { return };
        let mut range = text.split_whitespace().filter_map(|port| port.parse().ok());
        let (Some(first), Some(last)) = (range.next(), range.next()) else { return };
        let Ok((used, time_wait)) = SockDiag::open().and_then(|asked| asked.towards(peer)) else {
            return;
        };
        self.observer.observe(Kind::EphemeralPorts(v1::EphemeralPorts {
            destination: peer.to_string(),
            used,
            time_wait,
            range_first: first,
            range_last: last,
        }));
    }

    /// Looks where the names lead now that may have led to this peer.
    fn ask_names(&mut self, failed: &RequestFailed, peer: SocketAddr, notices: &Arc<Notices>) {
        let mut asked = may_have_led(&notices.endpoints(), failed, peer);
        asked.retain(|name| self.may_look(&format!("name {name}"), PAUSE_NAME));
        if asked.is_empty() {
            return;
        }
        let (observer, instance, peer) =
            (self.observer.clone(), failed.instance.clone(), failed.endpoint.clone());
        tokio::task::spawn_local(async move {
            let found = names::resolve(asked).await;
            for (endpoint, addresses) in found {
                if addresses.contains(&peer) {
                    continue;
                }
                observer.observe(Kind::NameResolved(v1::NameResolved {
                    instance: instance.clone(),
                    endpoint,
                    addresses,
                    declared: vec![peer.clone()],
                }));
            }
        });
    }
}

/// Names that led to this peer when they were resolved here. If none did, the gateway may have
/// resolved one earlier than the agent: then the only one of that route and port.
fn may_have_led(
    endpoints: &[v1::EndpointDeclared],
    failed: &RequestFailed,
    peer: SocketAddr,
) -> BTreeSet<String> {
    let own = || endpoints.iter().filter(|declared| declared.instance == failed.instance);
    let is_name = |declared: &&v1::EndpointDeclared| {
        declared.endpoint.parse::<SocketAddr>().is_err()
            && !declared.endpoint.starts_with("unix:")
            && declared.endpoint.contains(':')
    };
    let leads = |declared: &&v1::EndpointDeclared| declared.addresses.contains(&failed.endpoint);
    if own().any(|declared| leads(&declared)) {
        let names = own().filter(leads).filter(is_name);
        return names.map(|declared| declared.endpoint.clone()).collect();
    }
    let port = |declared: &&v1::EndpointDeclared| {
        let port = declared.endpoint.rsplit_once(':').map(|(_, port)| port.parse());
        declared.route == failed.route && port == Some(Ok(peer.port()))
    };
    let names = own().filter(is_name).filter(port).map(|declared| declared.endpoint.clone());
    let names: BTreeSet<String> = names.collect();
    if names.len() == 1 { names } else { BTreeSet::new() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(declared: &[(&str, &str)], expected: &[&str]) {
        let endpoint = |(name, address): &(&str, &str)| v1::EndpointDeclared {
            endpoint: (*name).to_owned(),
            addresses: vec![(*address).to_owned()],
            ..v1::EndpointDeclared::default()
        };
        let endpoints: Vec<_> = declared.iter().map(endpoint).collect();
        let peer = "10.0.0.7:80";
        let failed = RequestFailed { endpoint: peer.to_owned(), ..RequestFailed::default() };
        let names = may_have_led(&endpoints, &failed, peer.parse().unwrap());
        assert_eq!(names.into_iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn only_names_that_may_have_led_there_are_asked() {
        check(&[("a:80", "10.0.0.7:80"), ("b:80", "10.0.0.8:80")], &["a:80"]);
        check(&[("10.0.0.7:80", "10.0.0.7:80"), ("b:80", "10.0.0.8:80")], &[]);
        check(&[("a:80", "10.0.0.9:80")], &["a:80"]);
        check(&[("a:81", "10.0.0.9:81")], &[]);
        check(&[("a:80", "10.0.0.9:80"), ("b:80", "10.0.0.8:80")], &[]);
        check(&[("unix:/run/a:80", "unix:/run/a:80")], &[]);
    }
}
