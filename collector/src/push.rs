//! Failed requests of gateways on which no agent can run, pushed over HTTP.
//!
//! They become facts of a pseudo-host of the gateway's name, whose one boot outlives the collector's runs; only `seq`
//! orders them. Pushing the same twice counts twice: a load balancer's log has no names for its lines.

use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::Deserialize;
use tokio::sync::Mutex;
use why502_gateway::any::{Any, LINE_MAX};
use why502_gateway::lines::{Told, What};
use why502_gateway::redact;
use why502_proto::v1::{Fault, Phase, RequestFailed};
use why502_proto::{Entity, Kind, v1};

use crate::clock::now_us;
use crate::store::{Append, Arrived, Store, StoreError};
use crate::text::words;

/// The pseudo-host's boot.
const BOOT: &str = "pushed";
/// Facts that are stored together.
const FACTS_MAX: usize = 512;
/// Most stamps have whole seconds, and the balancer's clock is not ours.
const TOLERANCE_US: u64 = 1_000_000;
/// Longest name of a route, an endpoint or the like.
const NAME_MAX: usize = 300;

/// Takes what is pushed. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Push {
    store: Store,
    own_name: Arc<str>,
    /// One writer at a time gives the numbers.
    writing: Arc<Mutex<()>>,
}

/// Why nothing was stored.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// An agent, or the collector itself, speaks under that name.
    #[error("{0} is a host with an agent: its facts come from there")]
    Taken(String),
    /// The store.
    #[error("not stored")]
    Store(#[from] StoreError),
}

/// One report of failed requests, as openapi.json documents it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Failure {
    /// RFC 3339. Now when left out.
    at: String,
    /// "shop.example/api".
    route: String,
    /// "10.0.0.7:8080": where the request was sent.
    endpoint: String,
    /// Target group, pool, backend service.
    upstream: String,
    /// "connect", "header", ... as explanations have it.
    phase: String,
    /// "ECONNREFUSED", "timeout", ... as explanations have it.
    error: String,
    /// What the client was sent.
    status: Option<u32>,
    method: String,
    path: String,
    count: Option<u32>,
    elapsed_ms: Option<u64>,
    reused: Option<bool>,
    message: String,
}

impl Failure {
    /// The fact, and when; what is wrong with it where it is none.
    ///
    /// # Errors
    /// If a word is none of those that are known, or the time is none.
    pub fn into_fact(self, gateway: &str) -> Result<(Option<i64>, RequestFailed), String> {
        let at_us = match self.at.as_str() {
            "" => None,
            at => match at.parse::<Timestamp>() {
                Ok(at) => Some(at.as_microsecond()),
                Err(_) => return Err(format!("at: {:?} is no RFC 3339 time", redact::line(at))),
            },
        };
        let phase = (0..=64).filter_map(|n| Phase::try_from(n).ok());
        let phase = phase.into_iter().find(|phase| words::phase_name(*phase) == self.phase);
        let Some(phase) = phase else {
            return Err(format!("phase: {:?} is not known", redact::line(&self.phase)));
        };
        let fault = (0..=256).filter_map(|n| Fault::try_from(n).ok());
        let fault = fault.into_iter().find(|fault| words::fault_name(*fault) == self.error);
        let Some(fault) = fault else {
            return Err(format!("error: {:?} is not known", redact::line(&self.error)));
        };
        let path = self.path.split(['?', '#']).next().unwrap_or("");
        let failed = RequestFailed {
            gateway: gateway.to_owned(),
            instance: gateway.to_owned(),
            route: clipped(&self.route),
            endpoint: clipped(&self.endpoint),
            upstream: clipped(&self.upstream),
            phase: phase.into(),
            fault: fault.into(),
            status: self.status,
            method: clipped(&self.method),
            path: redact::line(path),
            count: self.count.unwrap_or(1).max(1),
            elapsed_ms: self.elapsed_ms,
            reused: self.reused,
            message: redact::line(&self.message),
        };
        Ok((at_us, failed))
    }
}

fn clipped(text: &str) -> String {
    let end = text.floor_char_boundary(NAME_MAX);
    text.get(..end).unwrap_or(text).to_owned()
}

/// What lines of any known log tell; and how many are in none.
pub fn of_lines(lines: &str) -> (Vec<(Option<i64>, Kind)>, usize) {
    let mut any = Any::new(TimeZone::UTC);
    let (mut told, mut facts, mut unknown) = (Vec::new(), Vec::new(), 0);
    for line in lines.lines().filter(|line| !line.trim().is_empty()) {
        let end = line.floor_char_boundary(LINE_MAX);
        unknown += usize::from(any.read(line.get(..end).unwrap_or(line), &mut told).is_none());
        facts.extend(told.drain(..).filter_map(fact));
    }
    any.pause(&mut told);
    facts.extend(told.into_iter().filter_map(fact));
    (facts, unknown)
}

fn fact(told: Told) -> Option<(Option<i64>, Kind)> {
    match told.what {
        What::Failed(failed) => Some((told.at_us, Kind::RequestFailed(failed))),
        What::Disabled(gone) => Some((told.at_us, Kind::EndpointDisabled(gone))),
        // A count of one line is no count of a period, and the rest is not about requests.
        What::Answered(_) | What::Reloaded(_) | What::Event(_) => None,
    }
}

impl Push {
    /// Writes to `store`; never under `own_name`.
    pub fn new(store: Store, own_name: &str) -> Self {
        Self { store, own_name: own_name.into(), writing: Arc::default() }
    }

    /// Stores facts of the gateway `host`, and answers once they are on disk.
    ///
    /// # Errors
    /// See [`PushError`].
    pub async fn take(
        &self,
        host: &str,
        mut facts: Vec<(Option<i64>, Kind)>,
    ) -> Result<(), PushError> {
        let _one_at_a_time = self.writing.lock().await;
        let known = self.store.hosts().await?;
        let agents = known.iter().any(|row| row.name == host && !row.boot.is_empty());
        if agents || *self.own_name == *host {
            return Err(PushError::Taken(host.to_owned()));
        }
        let now = now_us();
        let current = self.store.current(host).await?;
        if !current.iter().any(|seen| matches!(seen.kind, Kind::GatewaySeen(_))) {
            // What makes it a gateway that can be asked about, also after the next start.
            if let Some(seen) = gateway_seen(host, &facts) {
                facts.insert(0, seen);
            }
        }
        let append = |facts| Append {
            host: host.to_owned(),
            boot: BOOT.to_owned(),
            epoch: None,
            heard_us: now,
            facts,
        };
        // Without facts it only tells where the sequence stands.
        let mut seq = self.store.append(append(Vec::new())).await?;
        let mut facts = facts.into_iter().peekable();
        while facts.peek().is_some() {
            let some = facts.by_ref().take(FACTS_MAX).map(|(at_us, kind)| {
                seq += 1;
                arrived(seq, at_us.unwrap_or(now).min(now), kind)
            });
            let some = some.collect();
            self.store.append(append(some)).await?;
        }
        Ok(())
    }
}

fn gateway_seen(host: &str, facts: &[(Option<i64>, Kind)]) -> Option<(Option<i64>, Kind)> {
    facts.iter().find_map(|(at_us, kind)| match kind {
        Kind::RequestFailed(failed) => {
            let gateway = failed.gateway.clone();
            let instance = host.to_owned();
            let seen = v1::GatewaySeen { gateway, instance, ..v1::GatewaySeen::default() };
            Some((*at_us, Kind::GatewaySeen(seen)))
        }
        _ => None,
    })
}

fn arrived(seq: u64, at_us: i64, kind: Kind) -> Arrived {
    let entity = Entity::of(&kind);
    let fact = v1::Fact { seq, boottime_us: 0, realtime_us: at_us, kind: Some(kind) };
    Arrived { seq, at_us, tolerance_us: TOLERANCE_US, fact, entity }
}
