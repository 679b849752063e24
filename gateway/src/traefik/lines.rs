//! What lines of Traefik's logs tell.
//!
//! Its access log says which router and server, and not why; its own log says why, and not for whom: below the level
//! DEBUG it says nothing at all of most failures. Both are read by one reader, which joins them by second and status.
//! An answer of its own has a body of its own ("Bad Gateway", 11 bytes): another size came from the service.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use why502_proto::v1::{self, Fault, Phase};

use super::NAME;
use super::dynamic::{Transport, endpoint};
use super::entry::{Access, Entry, Said, parse};
use super::error;
use super::model::Model;
use crate::lines::{Lines, Told, What};
use crate::redact;

/// Errors that wait for the access line of their request: those of some seconds.
const RECENT_MAX: usize = 1024;
/// Both lines are written when the request ends; stamps are cut to seconds.
const APART_US: i64 = 2_000_000;
/// A server that stays down is told again after so long.
const AGAIN_US: i64 = 60_000_000;
/// Servers whose health checks failed lately.
const DOWN_MAX: usize = 4096;

/// Bodies of its own answers.
const OWN: [(u16, u64); 4] = [(500, 21), (502, 11), (503, 20), (504, 15)];

/// What both logs of one instance know together.
#[derive(Debug, Default)]
pub(super) struct Recent {
    errors: VecDeque<Reason>,
    down: BTreeMap<String, i64>,
}

#[derive(Clone, Debug)]
struct Reason {
    at_us: i64,
    status: u16,
    peer: String,
    phase: Phase,
    fault: Fault,
    message: String,
}

/// Reads everything that goes to one place.
#[derive(Debug, Default)]
pub(super) struct TraefikLines {
    model: Arc<Model>,
    /// Routers of other providers than files come and go.
    shared: Shared,
    recent: Arc<Mutex<Recent>>,
}

/// What it runs with now, for those who read its lines.
pub(super) type Shared = Arc<Mutex<Arc<Model>>>;

impl TraefikLines {
    pub(super) fn new(shared: Shared, recent: Arc<Mutex<Recent>>) -> Self {
        Self { model: Arc::default(), shared, recent }
    }

    fn access(&self, access: &Access, told: &mut Vec<Told>) {
        let (endpoint, _) =
            if access.url.is_empty() { Default::default() } else { endpoint(&access.url) };
        let (service, transport) = self.model.service(&access.router, &endpoint);
        let path = access.path.split(['?', '#']).next().unwrap_or("");
        let known = self.model.route(&access.router);
        let route = if known.is_empty() { access.router.as_str() } else { known };
        let failed = self.failure(access, &endpoint, transport);
        let relayed = failed.as_ref().is_some_and(|reason| reason.fault == Fault::Relayed);
        let at_us = access.at_us;
        if let Some(reason) = failed {
            let what = What::Failed(v1::RequestFailed {
                gateway: NAME.to_owned(),
                instance: self.model.instance.clone(),
                route: route.to_owned(),
                endpoint: endpoint.clone(),
                upstream: service,
                phase: reason.phase.into(),
                fault: reason.fault.into(),
                status: Some(access.status.into()),
                method: access.method.clone(),
                path: redact::line(path),
                count: 1,
                elapsed_ms: access.origin_ms.or(access.took_ms),
                reused: reason.message.contains("closed idle connection").then_some(true),
                message: redact::line(&reason.message),
            });
            told.push(Told { at_us, what });
        }
        if !access.router.is_empty() && !access.router.ends_with("@internal") {
            let what = What::Answered(self.counts(access, route, endpoint, relayed));
            told.push(Told { at_us, what });
        }
    }

    fn counts(
        &self,
        access: &Access,
        route: &str,
        endpoint: String,
        relayed: bool,
    ) -> v1::RequestCounts {
        let is = |range: std::ops::Range<u16>| u32::from(range.contains(&access.status));
        v1::RequestCounts {
            gateway: NAME.to_owned(),
            instance: self.model.instance.clone(),
            route: route.to_owned(),
            endpoint,
            period_ms: 0,
            informational: is(100..200),
            success: is(200..300),
            redirect: is(300..400),
            client_error: is(400..500),
            server_error: is(500..600),
            relayed: u32::from(relayed),
            slowest_ms: access.origin_ms,
            bad_gateway: is(502..503),
            unavailable: is(503..504),
            gateway_timeout: is(504..505),
        }
    }

    /// Why a request failed; `None`: it did not, or not for its upstream.
    fn failure(
        &self,
        access: &Access,
        endpoint: &str,
        transport: Option<Transport>,
    ) -> Option<Reason> {
        if access.router.ends_with("@internal") || access.router.is_empty() {
            return None;
        }
        let own = access.size.is_none_or(|size| size == 0 || OWN.contains(&(access.origin, size)));
        if own && let Some(reason) = self.reason(access, endpoint) {
            return Some(reason);
        }
        let plain = |phase, fault| {
            Some(Reason {
                at_us: 0,
                status: access.origin,
                peer: String::new(),
                phase,
                fault,
                message: String::new(),
            })
        };
        match (access.origin, endpoint.is_empty()) {
            (503, true) if OWN.contains(&(503, access.size.unwrap_or(0))) => {
                plain(Phase::Select, Fault::NoLiveUpstreams)
            }
            (502..=504, true) => None,
            // It has no 503 of its own once a server is chosen.
            (503, false) => plain(Phase::Header, Fault::Relayed),
            (502 | 504, false) if !own => plain(Phase::Header, Fault::Relayed),
            (502, false) => plain(Phase::Unspecified, Fault::Unspecified),
            (504, false) => plain(waited(access, transport), Fault::Timeout),
            _ => None,
        }
    }

    /// What its own log said of this request.
    fn reason(&self, access: &Access, endpoint: &str) -> Option<Reason> {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let named = endpoint.parse::<std::net::SocketAddr>().is_err();
        let mine = |reason: &Reason| {
            reason.status == access.origin
                && access.at_us.is_none_or(|at| (at - reason.at_us).abs() <= APART_US)
                && (reason.peer.is_empty() || named || reason.peer == endpoint)
        };
        let at = recent.errors.iter().position(mine)?;
        recent.errors.remove(at)
    }

    fn said(&self, said: &Said, told: &mut Vec<Told>) {
        let at_us = said.at_us;
        if let Some(status) = status_of(&said.message) {
            self.failed(said, status, told);
        } else if said.message == "Error while dialing backend" {
            let peer = error::peer(&said.error);
            let Some((phase, fault)) = error::failure(&said.error) else { return };
            let fact = self.plain(&peer, phase, fault, said);
            let route = self.model.tcp_route(&peer).to_owned();
            told.push(Told { at_us, what: What::Failed(v1::RequestFailed { route, ..fact }) });
        } else if said.message.starts_with("Health check failed") && !said.target.is_empty() {
            let (endpoint, _) = endpoint(&said.target);
            if self.is_news(&endpoint, at_us) {
                let (phase, fault) = error::failure(&said.error).unwrap_or_default();
                let what = What::Disabled(v1::EndpointDisabled {
                    instance: self.model.instance.clone(),
                    endpoint,
                    upstream: said.service.clone(),
                    phase: phase.into(),
                    fault: fault.into(),
                    message: redact::line(&said.error),
                });
                told.push(Told { at_us, what });
            }
        } else if said.message.starts_with("Error occurred during watcher callback") {
            let what = What::Reloaded(v1::GatewayReloaded {
                gateway: NAME.to_owned(),
                instance: self.model.instance.clone(),
                error: redact::line(&said.error),
            });
            told.push(Told { at_us, what });
        }
    }

    fn plain(&self, peer: &str, phase: Phase, fault: Fault, said: &Said) -> v1::RequestFailed {
        v1::RequestFailed {
            gateway: NAME.to_owned(),
            instance: self.model.instance.clone(),
            endpoint: peer.to_owned(),
            phase: phase.into(),
            fault: fault.into(),
            count: 1,
            message: redact::line(&said.error),
            ..v1::RequestFailed::default()
        }
    }

    fn failed(&self, said: &Said, status: u16, told: &mut Vec<Told>) {
        let Some((phase, fault)) = error::failure(&said.error) else { return };
        let peer = error::peer(&said.error);
        // The access line comes when the client has its answer; without one this is all that there is.
        if !self.model.has_access_log {
            let fact = self.plain(&peer, phase, fault, said);
            let status = Some(status.into());
            told.push(Told {
                at_us: said.at_us,
                what: What::Failed(v1::RequestFailed { status, ..fact }),
            });
            return;
        }
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if recent.errors.len() >= RECENT_MAX {
            recent.errors.pop_front();
        }
        let (at_us, message) = (said.at_us.unwrap_or(0), said.error.clone());
        recent.errors.push_back(Reason { at_us, status, peer, phase, fault, message });
    }

    fn is_news(&self, endpoint: &str, at_us: Option<i64>) -> bool {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let now = at_us.unwrap_or(0);
        if recent.down.get(endpoint).is_some_and(|last| now - last < AGAIN_US) {
            return false;
        }
        if recent.down.len() >= DOWN_MAX {
            recent.down.clear();
        }
        recent.down.insert(endpoint.to_owned(), now);
        true
    }
}

/// 502 of "502 Bad Gateway".
fn status_of(message: &str) -> Option<u16> {
    let (number, _) = message.split_once(' ')?;
    number.parse().ok().filter(|status| [500, 502, 504].contains(status))
}

/// Which of its timers ran out, if only one can be.
fn waited(access: &Access, transport: Option<Transport>) -> Phase {
    const TLS_MS: u64 = 10_000;
    let Some((took, transport)) = access.origin_ms.or(access.took_ms).zip(transport) else {
        return Phase::Unspecified;
    };
    let near = |limit: u64| limit > 0 && took.abs_diff(limit) * 20 <= limit;
    let tls = access.url.starts_with("https:") && near(TLS_MS);
    match (near(transport.dial_ms), near(transport.header_ms), tls) {
        (true, false, false) => Phase::Connect,
        (false, true, false) => Phase::Header,
        (false, false, true) => Phase::Tls,
        _ => Phase::Unspecified,
    }
}

impl Lines for TraefikLines {
    fn read(&mut self, line: &str, told: &mut Vec<Told>) {
        self.model = Arc::clone(&self.shared.lock().unwrap_or_else(PoisonError::into_inner));
        match parse(line) {
            Some(Entry::Access(access)) => self.access(&access, told),
            Some(Entry::Said(said)) => self.said(&said, told),
            None => {}
        }
    }
}

/// Whether a line is one of Traefik's.
pub(super) fn knows(line: &str) -> bool {
    match parse(line) {
        Some(Entry::Access(access)) => {
            !line.starts_with('{')
                || !access.router.is_empty()
                || line.contains("\"entryPointName\"")
        }
        Some(Entry::Said(said)) => {
            !line.starts_with('{') || line.contains("traefik") || status_of(&said.message).is_some()
        }
        None => false,
    }
}
