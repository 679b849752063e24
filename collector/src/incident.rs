//! From stored facts to incidents: who is to be explained anew, from which facts, and when.
//!
//! A commit makes the gateways due whose explanation it may change. The first look comes after [`GATHER`], so
//! that facts of one event that come from two hosts are looked at together; under load one gateway is looked at
//! every [`APART`]. A look asks for at most [`LOOK_MAX`] and goes on with the rest at the next, after the other
//! gateways that are due, so that no endpoint waits for the flood of another.

mod id;
mod ledger;
mod look;
mod scope;
mod window;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{broadcast, watch};
use tokio::time::Instant;
use why502_explain::{Question, Seen};
use why502_proto::{FactId, Kind};

pub use scope::{Scopes, concerns};
pub use window::Window;

use crate::chain::chain;
use crate::clock::{Beat, now_us};
use crate::metrics::Metrics;
use crate::store::{Committed, IncidentRow, Store, StoreError};
use crate::view::Change;
use ledger::Ledger;
use look::{Found, Look};

/// From a fact to the first look: the same event's facts of the other host come within it.
const GATHER: Duration = Duration::from_millis(8);
/// Looks at one gateway are at least this far apart.
const APART: Duration = Duration::from_millis(200);
/// Gateways with open incidents are looked at this often without any new fact: time resolves them.
const WATCH: Duration = Duration::from_secs(1);
/// So are those of which facts came this recently: what is wrong is predicted only once it has lasted, a start for
/// 30 s.
const SETTLING: Duration = Duration::from_secs(40);
/// And this often while facts came just now: rules wait a second for words that decide between two answers.
const WATCH_FRESH: Duration = APART;
const FRESH: Duration = Duration::from_secs(4);
/// Longest look at one gateway.
const LOOK_MAX: Duration = Duration::from_millis(50);
/// Commits taken in between two looks.
const COMMITS_MAX: usize = 256;
/// Hosts whose facts are kept in memory, some 1 MiB each at the most; the others are read when needed.
const WINDOWS_MAX: usize = 512;
/// Resolved incidents that a start looks at again.
const RESTORED_MAX: u32 = 1_000;
/// Incidents that a start goes on with (see `OPEN_MAX` of the ledger).
const OPEN_RESTORED_MAX: u32 = 10_000;

/// The engine's state.
#[derive(Debug)]
pub struct Incidents {
    store: Store,
    metrics: Metrics,
    changes: broadcast::Sender<Change>,
    own_name: String,
    beat: Beat,
    scopes: Scopes,
    windows: BTreeMap<String, Window>,
    ledger: Ledger,
    due: BTreeMap<String, Due>,
    /// Gateways by the hosts that they are explained from.
    watchers: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Debug, Default)]
struct Due {
    at: Option<Instant>,
    last: Option<Instant>,
    /// Endpoints on which requests failed since the last look: asked first.
    urgent: BTreeSet<String>,
    /// Where the last look stopped.
    rest_from: Option<Question>,
    /// New facts came since the last look.
    fresh: bool,
    /// When the last of them came.
    heard: Option<Instant>,
}

impl Incidents {
    /// Goes on from what is stored.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn restore(
        store: Store,
        metrics: Metrics,
        changes: broadcast::Sender<Change>,
        own_name: String,
    ) -> Result<Self, StoreError> {
        let mut rows = store.incidents(Some(true), None, OPEN_RESTORED_MAX).await?;
        let resolved = store.incidents(Some(false), None, RESTORED_MAX).await?;
        let late_from = now_us() - ledger::LATE_WITHIN_US;
        rows.extend(resolved.into_iter().filter(|row| row.updated_us > late_from));
        let ledger = Ledger::restore(rows);
        let scopes = Scopes::load(&store).await?;
        let beat = Beat::default();
        beat.beat();
        let mut incidents = Self {
            store,
            metrics,
            changes,
            own_name,
            beat,
            scopes,
            windows: BTreeMap::new(),
            ledger,
            due: BTreeMap::new(),
            watchers: BTreeMap::new(),
        };
        incidents.begin_anew();
        Ok(incidents)
    }

    /// For the watchdog.
    pub fn beat(&self) -> Beat {
        self.beat.clone()
    }

    /// Works until `stopping`.
    pub async fn run(
        mut self,
        mut commits: broadcast::Receiver<Arc<Committed>>,
        mut stopping: watch::Receiver<bool>,
    ) {
        loop {
            self.beat.beat();
            let next = self.next_due();
            let wake = next.as_ref().map_or_else(|| Instant::now() + WATCH, |(at, _)| *at);
            tokio::select! {
                biased;
                _ = async { stopping.wait_for(|stop| *stop).await.is_ok() } => return,
                () = tokio::time::sleep_until(wake) => {
                    if let Some((_, gateway)) = next {
                        self.look_at(&gateway).await;
                    }
                    // What came meanwhile must not wait behind gateways that are due all the time.
                    for _ in 0..COMMITS_MAX {
                        match commits.try_recv() {
                            Ok(committed) => self.commit(&committed),
                            Err(broadcast::error::TryRecvError::Lagged(_)) => self.reload().await,
                            Err(_) => break,
                        }
                    }
                }
                committed = commits.recv() => match committed {
                    Ok(committed) => self.commit(&committed),
                    Err(broadcast::error::RecvError::Lagged(_)) => self.reload().await,
                    Err(broadcast::error::RecvError::Closed) => return,
                },
            }
        }
    }

    fn commit(&mut self, committed: &Committed) {
        if self.scopes.commit(committed) {
            self.index();
        }
        if let Some(window) = self.windows.get_mut(&committed.host) {
            window.commit(committed);
        }
        let mut touched: BTreeSet<&str> = BTreeSet::from([committed.host.as_str()]);
        let mut urgent = BTreeSet::new();
        for (seen, _) in &committed.facts {
            match &seen.kind {
                // A silence is told by the collector, and is about another host.
                Kind::AgentSilent(silent) => drop(touched.insert(silent.host.as_str())),
                Kind::RequestFailed(failed) => drop(urgent.insert(failed.endpoint.clone())),
                _ => {}
            }
        }
        let now = Instant::now();
        let gateways: BTreeSet<String> =
            touched.iter().filter_map(|host| self.watchers.get(*host)).flatten().cloned().collect();
        for gateway in gateways {
            let due = self.due.entry(gateway).or_default();
            due.fresh = true;
            due.heard = Some(now);
            due.urgent.extend(urgent.iter().cloned());
            let gathered = now + GATHER;
            let at = due.last.map_or(gathered, |last| gathered.max(last + APART));
            due.at = Some(due.at.map_or(at, |earlier| earlier.min(at)));
        }
    }

    /// Commits were missed: everything is read again.
    async fn reload(&mut self) {
        tracing::warn!("facts come faster than they are explained: reading them from the store");
        match Scopes::load(&self.store).await {
            Ok(scopes) => {
                self.scopes = scopes;
                self.begin_anew();
            }
            Err(error) => {
                tracing::error!("incidents go on with what they know: {}", chain(&error));
            }
        }
    }

    fn begin_anew(&mut self) {
        self.windows.clear();
        self.index();
        let now = Instant::now();
        for gateway in self.scopes.gateways() {
            let due = self.due.entry(gateway.to_owned()).or_default();
            due.fresh = true;
            due.heard = Some(now);
            due.at = Some(now);
        }
    }

    fn index(&mut self) {
        self.watchers.clear();
        for gateway in self.scopes.gateways() {
            for host in self.scopes.hosts_of(gateway) {
                self.watchers.entry(host).or_default().insert(gateway.to_owned());
            }
        }
    }

    fn next_due(&self) -> Option<(Instant, String)> {
        let due = self.due.iter().filter_map(|(gateway, due)| due.at.map(|at| (at, gateway)));
        due.min().map(|(at, gateway)| (at, gateway.clone()))
    }

    async fn look_at(&mut self, gateway: &str) {
        let began = Instant::now();
        let Some(due) = self.due.get_mut(gateway) else { return };
        due.at = None;
        let urgent = std::mem::take(&mut due.urgent);
        let rest_from = due.rest_from.take();
        let fresh = std::mem::take(&mut due.fresh);
        match self.found(gateway, urgent, rest_from, fresh).await {
            Ok(found) => {
                if let Some(due) = self.due.get_mut(gateway) {
                    due.rest_from = found.rest_from.clone();
                    due.at = due.rest_from.is_some().then(Instant::now);
                }
                self.keep(gateway, found).await;
            }
            Err(error) => tracing::error!("cannot look at {gateway}: {}", chain(&error)),
        }
        self.metrics.rounds.inc();
        self.metrics.round_seconds.observe(began.elapsed().as_secs_f64());
        let now = Instant::now();
        let watched = self.ledger.watches(gateway);
        if let Some(due) = self.due.get_mut(gateway) {
            due.last = Some(now);
            let since = due.heard.map_or(SETTLING, |heard| now - heard);
            if (watched || since < SETTLING) && due.at.is_none() {
                let fresh = watched && since < FRESH;
                due.at = Some(now + if fresh { WATCH_FRESH } else { WATCH });
            }
        }
    }

    async fn found(
        &mut self,
        gateway: &str,
        urgent: BTreeSet<String>,
        rest_from: Option<Question>,
        fresh: bool,
    ) -> Result<Found, StoreError> {
        let now_us = now_us();
        let mut hosts = self.scopes.hosts_of(gateway);
        hosts.push(self.own_name.clone());
        let mut facts: Vec<Seen> = Vec::new();
        for host in &hosts {
            if !self.windows.contains_key(host) {
                self.make_room(&hosts);
                let mut window = Window::load(&self.store, host, now_us).await?;
                let evidence = self.ledger.evidence(gateway);
                let ids = evidence.iter().filter_map(|id| id.parse::<FactId>().ok());
                let ids = ids.filter(|id| id.host == *host).collect();
                window.pin(self.store.facts_by_id(ids).await?);
                self.windows.insert(host.clone(), window);
            }
            facts.extend(self.windows.get(host).map(Window::facts).unwrap_or_default());
        }
        facts.retain(|seen| concerns(&hosts, seen));
        let late = if fresh { self.ledger.late(gateway) } else { Vec::new() };
        let gateway = gateway.to_owned();
        let look = Look { gateway, facts, now_us, urgent, rest_from, late, longest: LOOK_MAX };
        tokio::task::spawn_blocking(move || look.run()).await.map_err(|_| StoreError::Closed)
    }

    async fn keep(&mut self, gateway: &str, found: Found) {
        let now_us = now_us();
        let complete = found.complete;
        let before = self.ledger.open();
        let mut writes = self.ledger.take(gateway, found.answers, complete, now_us);
        for (incident, explanation) in found.late {
            writes.extend(self.ledger.improve(&incident, explanation, now_us));
        }
        let open = self.ledger.open();
        self.metrics.incidents_open.set(i64::try_from(open).unwrap_or(i64::MAX));
        self.metrics.incidents_opened.inc_by(open.saturating_sub(before) as u64);
        if writes.is_empty() {
            return;
        }
        self.pin(gateway);
        for row in writes {
            self.write(row).await;
        }
    }

    async fn write(&self, row: IncidentRow) {
        let explanation = Arc::new(row.explanation.clone());
        match self.store.put_incident(row).await {
            Ok(()) => {
                tracing::info!(
                    incident = explanation.incident,
                    state = explanation.state,
                    cause = explanation.root_cause,
                    "{}",
                    explanation.headline
                );
                let _nobody = self.changes.send(Change::Incident(explanation));
            }
            Err(error) => {
                let why = chain(&error);
                tracing::error!("incident {} is not stored: {why}", explanation.incident);
            }
        }
    }

    /// Holds on to the facts that this gateway's incidents rest on.
    fn pin(&mut self, gateway: &str) {
        let evidence = self.ledger.evidence(gateway);
        for id in evidence.iter().filter_map(|id| id.parse::<FactId>().ok()) {
            if let Some(window) = self.windows.get_mut(&id.host) {
                let seen = window.get(&id).cloned();
                window.pin(seen);
            }
        }
        let all: BTreeSet<String> =
            self.scopes.gateways().iter().flat_map(|name| self.ledger.evidence(name)).collect();
        for window in self.windows.values_mut() {
            window.unpin(|id| all.contains(&id.to_string()));
        }
    }

    /// Lets go of a window that this look does not need, if there are too many.
    fn make_room(&mut self, needed: &[String]) {
        if self.windows.len() < WINDOWS_MAX {
            return;
        }
        let spare = self.windows.keys().find(|host| !needed.contains(host)).cloned();
        if let Some(host) = spare {
            self.windows.remove(&host);
        }
    }
}

#[cfg(test)]
mod tests;
