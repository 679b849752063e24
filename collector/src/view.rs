//! The one view behind CLI, page, HTTP API, gRPC and alerts: whatever they show, they ask here.

use std::sync::Arc;

use tokio::sync::{broadcast, watch};
use why502_explain::{Question, Seen, Snapshot};
use why502_proto::{Entity, Kind, fields_text, kind_name, rfc3339, v1};

use crate::clock::now_us;
use crate::incident::{Scopes, Window, concerns};
use crate::ingest::{Presence, Presences};
use crate::metrics::Metrics;
use crate::store::{HostRow, Store, StoreError, TimelineQuery};
use crate::tls;

/// How many changes a slow listener may be behind before it misses some and is told so
/// (`RecvError::Lagged`): two seconds at 2,000 facts/s.
const CHANGES_MAX: usize = 4096;

/// Bounds of query.proto.
const INCIDENTS_DEFAULT: u32 = 100;
const INCIDENTS_MAX: u32 = 1_000;
const TIMELINE_DEFAULT: u32 = 1_000;
const TIMELINE_MAX: u32 = 10_000;
const TIMELINE_SPAN_US: i64 = 15 * 60 * 1_000_000;
/// A clock this far off is shown to people.
const OFFSET_WARN_US: u64 = 5_000_000;

/// Why a question to the view has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// There is no such incident, host or gateway.
    #[error("there is no {what}")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// The question is malformed.
    #[error("{what}")]
    BadRequest {
        /// What is wrong with it, for the person who asked.
        what: String,
    },
    /// The store could not answer.
    #[error("the store cannot answer")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Something that a page or a watcher wants to know at once.
#[derive(Clone, Debug)]
pub enum Change {
    /// An incident was opened, updated or resolved.
    Incident(Arc<v1::Explanation>),
    /// This host came, went, or sees more or less than before.
    Host(String),
    /// A fact was stored.
    Fact(Arc<v1::TimelineEntry>),
}

/// A handle on everything that can be asked. Cheap to clone.
#[derive(Clone, Debug)]
pub struct View {
    store: Store,
    presences: Presences,
    metrics: Metrics,
    changes: broadcast::Sender<Change>,
    /// What is so for the whole run: plaintext beyond loopback.
    standing_warnings: Arc<[String]>,
    tls: Option<tls::Current>,
    /// Name under which the collector itself writes facts.
    own_name: Arc<str>,
}

/// The sender behind [`View::changes`], which the parts of the collector share.
pub fn changes() -> broadcast::Sender<Change> {
    broadcast::Sender::new(CHANGES_MAX)
}

impl View {
    /// Puts the view together.
    pub fn new(
        store: Store,
        presences: Presences,
        metrics: Metrics,
        changes: broadcast::Sender<Change>,
        standing_warnings: Vec<String>,
        tls: Option<tls::Current>,
        own_name: &str,
    ) -> Self {
        let (standing_warnings, own_name) = (standing_warnings.into(), own_name.into());
        Self { store, presences, metrics, changes, standing_warnings, tls, own_name }
    }

    /// Incidents, newest first.
    ///
    /// # Errors
    /// [`ViewError::BadRequest`] for an unknown state or a limit above 1,000.
    pub async fn incidents(
        &self,
        request: v1::ListIncidentsRequest,
    ) -> Result<v1::ListIncidentsResponse, ViewError> {
        let open = match request.state.as_str() {
            "" => None,
            "open" => Some(true),
            "resolved" => Some(false),
            other => return bad(format!("state is open or resolved, not {other:?}")),
        };
        let limit = bounded(request.limit, INCIDENTS_DEFAULT, INCIDENTS_MAX)?;
        let gateway = Some(request.gateway).filter(|gateway| !gateway.is_empty());
        let rows = self.store.incidents(open, gateway, limit).await.map_err(refused)?;
        Ok(v1::ListIncidentsResponse {
            incidents: rows.into_iter().map(|r| r.explanation).collect(),
        })
    }

    /// One incident by its id.
    ///
    /// # Errors
    /// [`ViewError::NotFound`].
    pub async fn incident(&self, id: &str) -> Result<v1::Explanation, ViewError> {
        let found = self.store.incident(id).await.map_err(refused)?;
        found
            .map(|row| row.explanation)
            .ok_or_else(|| ViewError::NotFound { what: format!("incident {id:?}") })
    }

    /// What a gateway's route shows at a moment, whether there is an incident or not. Where nothing is
    /// wrong, `verdict` is "" and `headline` says so. With one gateway its name may be left out.
    ///
    /// # Errors
    /// [`ViewError::NotFound`] for an unknown gateway, [`ViewError::BadRequest`] for a time that is none.
    pub async fn explain(&self, request: v1::ExplainRequest) -> Result<v1::Explanation, ViewError> {
        let at_us = moment(&request.at, now_us())?;
        let scopes = Scopes::load(&self.store).await.map_err(refused)?;
        let gateway = match (request.gateway.as_str(), scopes.gateways().as_slice()) {
            ("", [only]) => (*only).to_owned(),
            ("", []) => return Err(ViewError::NotFound { what: "gateway yet".into() }),
            ("", several) => {
                return bad(format!("which gateway? there are {}", several.join(", ")));
            }
            (name, known) if known.contains(&name) => name.to_owned(),
            (name, _) => return Err(ViewError::NotFound { what: format!("gateway {name:?}") }),
        };
        let hosts = scopes.hosts_of(&gateway);
        let mut facts = Vec::new();
        // The collector's own facts tell which of them were silent.
        for host in hosts.iter().map(String::as_str).chain([&*self.own_name]) {
            let window = Window::load(&self.store, host, at_us).await.map_err(refused)?;
            facts.extend(window.facts().into_iter().filter(|seen| concerns(&hosts, seen)));
        }
        let task = move || answer(&gateway, &hosts, &request, Snapshot::new(facts, at_us));
        tokio::task::spawn_blocking(task).await.map_err(|error| ViewError::Store(error.into()))
    }

    /// Facts in order of time.
    ///
    /// # Errors
    /// [`ViewError::BadRequest`] for a time that is none or a limit above 10,000.
    pub async fn timeline(
        &self,
        request: v1::GetTimelineRequest,
    ) -> Result<v1::GetTimelineResponse, ViewError> {
        let until_us = moment(&request.until, now_us())?;
        let since_us = moment(&request.since, until_us.saturating_sub(TIMELINE_SPAN_US))?;
        let limit = bounded(request.limit, TIMELINE_DEFAULT, TIMELINE_MAX)?;
        let host = Some(request.host).filter(|host| !host.is_empty());
        let query = TimelineQuery { host, since_us, until_us, limit };
        let facts = self.store.facts(query).await.map_err(refused)?;
        Ok(v1::GetTimelineResponse { entries: facts.iter().map(timeline_entry).collect() })
    }

    /// Facts by their names ("host/boot/seq"). One that is not stored, or no longer, is left out.
    ///
    /// # Errors
    /// [`ViewError::Store`].
    pub async fn facts(&self, ids: &[String]) -> Result<Vec<v1::TimelineEntry>, ViewError> {
        let ids = ids.iter().filter_map(|id| id.parse().ok()).collect();
        let facts = self.store.facts_by_id(ids).await.map_err(refused)?;
        Ok(facts.iter().map(timeline_entry).collect())
    }

    /// Every host that was ever heard, by name.
    ///
    /// # Errors
    /// [`ViewError::Store`].
    pub async fn hosts(&self) -> Result<v1::ListHostsResponse, ViewError> {
        let rows = self.store.hosts().await.map_err(refused)?;
        let addresses = self.store.current_about("host_address").await.map_err(refused)?;
        let sources = self.store.current_about("source").await.map_err(refused)?;
        let presences = self.presences.all();
        let of = |row: HostRow| {
            let presence = presences.get(&row.name).cloned().unwrap_or_default();
            host(row, &presence, &addresses, &sources)
        };
        // The collector's own name is no host.
        let heard = rows.into_iter().filter(|row| !row.boot.is_empty());
        Ok(v1::ListHostsResponse { hosts: heard.map(of).collect() })
    }

    /// Changes from now on.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// What whoever looks should know about the collector itself: plaintext beyond loopback, a store that
    /// cannot write, a host's wrong clock.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = self.standing_warnings.to_vec();
        warnings.extend(self.store.warnings());
        warnings.extend(self.tls.as_ref().and_then(tls::Current::warning));
        for (host, presence) in self.presences.all() {
            if presence.connected && presence.offset_us.unsigned_abs() > OFFSET_WARN_US {
                let seconds = presence.offset_us.unsigned_abs() / 1_000_000;
                let side = if presence.offset_us < 0 { "behind" } else { "ahead" };
                warnings.push(format!(
                    "the clock of {host} is {seconds} s {side}; its facts are dated by this collector's clock"
                ));
            }
        }
        warnings
    }

    /// What the collector counts about itself.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Turns what is stored into changes, until `stopping`.
    pub async fn tell_of_facts(self, mut stopping: watch::Receiver<bool>) {
        let mut commits = self.store.commits();
        loop {
            let committed = tokio::select! {
                _ = async { stopping.wait_for(|stop| *stop).await.is_ok() } => return,
                committed = commits.recv() => committed,
            };
            let committed = match committed {
                Ok(committed) => committed,
                Err(broadcast::error::RecvError::Lagged(_)) => continue,
                Err(broadcast::error::RecvError::Closed) => return,
            };
            if self.changes.receiver_count() == 0 {
                continue;
            }
            let sight = |kind: &Kind| {
                matches!(
                    kind,
                    Kind::SourceSeeing(_) | Kind::SourceBlinded(_) | Kind::AgentStarted(_)
                )
            };
            if committed.facts.iter().any(|(seen, _)| sight(&seen.kind)) {
                let _nobody = self.changes.send(Change::Host(committed.host.clone()));
            }
            for (seen, _) in &committed.facts {
                let _nobody = self.changes.send(Change::Fact(Arc::new(timeline_entry(seen))));
            }
        }
    }
}

/// The first of the questions that `request` may mean to which there is an answer.
fn answer(
    gateway: &str,
    hosts: &[String],
    request: &v1::ExplainRequest,
    snapshot: Snapshot,
) -> v1::Explanation {
    let meant = |question: &Question| {
        question.gateway == gateway
            && (request.route.is_empty() || question.route == request.route)
            && (request.endpoint.is_empty() || question.endpoint == request.endpoint)
    };
    let questions = why502_explain::questions(&snapshot);
    let mut answers = questions.iter().filter(|question| meant(question));
    let found = answers.find_map(|question| why502_explain::explain(&snapshot, question));
    found.unwrap_or_else(|| v1::Explanation {
        gateway: gateway.to_owned(),
        route: request.route.clone(),
        endpoint: request.endpoint.clone(),
        headline: "nothing is wrong, as far as can be seen".into(),
        hosts: hosts.to_vec(),
        ..v1::Explanation::default()
    })
}

fn host(row: HostRow, presence: &Presence, addresses: &[Seen], sources: &[Seen]) -> v1::Host {
    let of_host = |seen: &&Seen| seen.id.host == row.name;
    let address = |seen: &Seen| match &seen.kind {
        Kind::HostAddress(address) => Some(address.address.clone()),
        _ => None,
    };
    let mut addresses: Vec<_> = addresses.iter().filter(of_host).filter_map(address).collect();
    addresses.sort();
    addresses.dedup();
    let mut sources: Vec<_> = sources.iter().filter(of_host).filter_map(host_source).collect();
    sources.sort_by(|a, b| (&a.source, &a.scope).cmp(&(&b.source, &b.scope)));
    let connected = presence.connected && !presence.silent;
    let live = presence.connected;
    v1::Host {
        state: if connected { "connected" } else { "silent" }.into(),
        last_seen: rfc3339(if live { presence.heard_us } else { row.last_seen_us }),
        clock_offset_us: if live { presence.offset_us } else { row.offset_us },
        clock_tolerance_us: if live { presence.tolerance_us } else { row.tolerance_us },
        host: row.name,
        agent_version: row.agent_version,
        boot_id: row.boot,
        addresses,
        sources,
        facts: row.facts,
        kernel: row.kernel,
        distribution: row.distribution,
        peer: row.peer,
        tls: row.tls,
    }
}

fn host_source(seen: &Seen) -> Option<v1::HostSource> {
    let since = rfc3339(seen.at_us);
    let name = |source: v1::Source| {
        source.as_str_name().trim_start_matches("SOURCE_").to_ascii_lowercase()
    };
    match &seen.kind {
        Kind::SourceSeeing(seeing) => Some(v1::HostSource {
            source: name(seeing.source()),
            scope: seeing.scope.clone(),
            seeing: true,
            since,
            ..v1::HostSource::default()
        }),
        Kind::SourceBlinded(blinded) => Some(v1::HostSource {
            source: name(blinded.source()),
            scope: blinded.scope.clone(),
            seeing: false,
            since,
            reason: blinded.reason.clone(),
            grant: blinded.grant.clone(),
        }),
        _ => None,
    }
}

fn timeline_entry(seen: &Seen) -> v1::TimelineEntry {
    v1::TimelineEntry {
        id: seen.id.to_string(),
        at: rfc3339(seen.at_us),
        host: seen.id.host.clone(),
        kind: kind_name(&seen.kind),
        text: fields_text(&seen.kind),
        about: Entity::of(&seen.kind).map(|entity| entity.name).unwrap_or_default(),
    }
}

fn moment(text: &str, otherwise_us: i64) -> Result<i64, ViewError> {
    if text.is_empty() {
        return Ok(otherwise_us);
    }
    match text.parse::<jiff::Timestamp>() {
        Ok(time) => Ok(time.as_microsecond()),
        Err(error) => bad(format!("{text:?} is not a time like 2026-01-31T12:00:00Z: {error}")),
    }
}

fn bounded(asked: u32, otherwise: u32, max: u32) -> Result<u32, ViewError> {
    match asked {
        0 => Ok(otherwise),
        asked if asked <= max => Ok(asked),
        asked => bad(format!("limit is at most {max}, not {asked}")),
    }
}

fn bad<T>(what: String) -> Result<T, ViewError> {
    Err(ViewError::BadRequest { what })
}

fn refused(error: StoreError) -> ViewError {
    ViewError::Store(error.into())
}
