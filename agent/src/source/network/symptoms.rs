//! Looks that a symptom asks for, each at most once in a while.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use why502_proto::v1::Fault;
use why502_proto::{Kind, v1};

use crate::observe::{Notices, Observer};
use crate::source::Roots;
use crate::source::sock_diag::SockDiag;

/// The same look is not taken again before.
const PAUSE: Duration = Duration::from_secs(5);
/// Looks that are remembered.
const LOOKS_MAX: usize = 1024;

pub(super) struct Symptoms {
    roots: Roots,
    observer: Observer,
    /// When each look was taken last.
    looked: BTreeMap<String, Instant>,
}

impl Symptoms {
    pub(super) fn new(roots: Roots, observer: Observer) -> Self {
        Self { roots, observer, looked: BTreeMap::new() }
    }

    pub(super) async fn act(&mut self, symptom: &Kind, _notices: &Arc<Notices>) {
        let Kind::RequestFailed(failed) = symptom else { return };
        if failed.fault() == Fault::Eaddrnotavail
            && let Ok(peer) = failed.endpoint.parse::<SocketAddr>()
            && self.may_look(&failed.endpoint)
        {
            self.count_ports(peer);
        }
    }

    fn may_look(&mut self, what: &str) -> bool {
        let now = Instant::now();
        if self.looked.get(what).is_some_and(|last| now.duration_since(*last) < PAUSE) {
            return false;
        }
        if self.looked.len() >= LOOKS_MAX {
            self.looked.retain(|_, last| now.duration_since(*last) < PAUSE);
        }
        self.looked.insert(what.to_owned(), now);
        true
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
}
