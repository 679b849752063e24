//! Reading the store, each read on a connection of its own.

use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use prost::Message as _;
use rusqlite::{Connection, OptionalExtension as _, Row, params, params_from_iter};
use tokio::sync::Semaphore;
use why502_explain::Seen;
use why502_proto::{FactId, v1};

use super::{IncidentRow, Store, StoreError, schema, signed, sqlite, unsigned};

/// What a host was when it was last heard.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostRow {
    /// Name.
    pub name: String,
    /// Its last boot.
    pub boot: String,
    /// Version of its agent.
    pub agent_version: String,
    /// `uname -r`.
    pub kernel: String,
    /// PRETTY_NAME of os-release.
    pub distribution: String,
    /// Where its last stream came from.
    pub peer: String,
    /// That was protected by TLS.
    pub tls: bool,
    /// Its wall clock minus the collector's.
    pub offset_us: i64,
    /// How far off its facts may be dated.
    pub tolerance_us: u64,
    /// Microseconds since 1970.
    pub last_seen_us: i64,
    /// Facts that were ever stored of it.
    pub facts: u64,
}

/// Which facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineQuery {
    /// Of this host; `None`: of all.
    pub host: Option<String>,
    /// From here, microseconds since 1970, inclusive.
    pub since_us: i64,
    /// To here, inclusive.
    pub until_us: i64,
    /// At most so many, the newest.
    pub limit: u32,
}

/// Connections that are idle, and how many may be busy.
#[derive(Debug)]
pub(super) struct Readers {
    path: PathBuf,
    idle: Mutex<Vec<Connection>>,
    permits: Semaphore,
}

impl Readers {
    pub(super) fn new(path: PathBuf, at_once_max: usize) -> Self {
        Self { path, idle: Mutex::new(Vec::new()), permits: Semaphore::new(at_once_max) }
    }

    fn take(&self) -> Result<Connection, StoreError> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match idle {
            Some(connection) => Ok(connection),
            None => schema::open_reader(&self.path).map_err(sqlite("open for reading")),
        }
    }

    fn put(&self, connection: Connection) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
    }
}

/// Joins that every read of facts begins with.
const FACTS: &str =
    "SELECT hosts.name, boots.boot, facts.seq, facts.at_us, facts.tolerance_us, facts.bytes
    FROM facts JOIN hosts ON hosts.id = facts.host JOIN boots ON boots.id = facts.boot";

impl Store {
    async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        read: impl FnOnce(&Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    ) -> Result<T, StoreError> {
        let _permit = self.inner.readers.permits.acquire().await.map_err(|_| StoreError::Closed)?;
        let inner = std::sync::Arc::clone(&self.inner);
        let work = move || {
            let connection = inner.readers.take()?;
            let answer = read(&connection).map_err(sqlite(operation))?;
            inner.readers.put(connection);
            Ok(answer)
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::Closed)?
    }

    /// Facts in order of time, the newest where there are more than the limit.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn facts(&self, query: TimelineQuery) -> Result<Vec<Seen>, StoreError> {
        self.read("read facts", move |connection| {
            let mut found = match &query.host {
                Some(host) => connection
                    .prepare_cached(&format!(
                        "{FACTS} WHERE facts.host = (SELECT id FROM hosts WHERE name = ?1)
                         AND facts.at_us BETWEEN ?2 AND ?3 ORDER BY facts.at_us DESC LIMIT ?4"
                    ))?
                    .query_map(params![host, query.since_us, query.until_us, query.limit], seen)?
                    .collect::<Result<Vec<_>, _>>()?,
                None => connection
                    .prepare_cached(&format!(
                        "{FACTS} WHERE facts.at_us BETWEEN ?1 AND ?2
                         ORDER BY facts.at_us DESC LIMIT ?3"
                    ))?
                    .query_map(params![query.since_us, query.until_us, query.limit], seen)?
                    .collect::<Result<Vec<_>, _>>()?,
            };
            found.reverse();
            Ok(found.into_iter().flatten().collect())
        })
        .await
    }

    /// The fact that holds for each thing that still is on `host`.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn current(&self, host: &str) -> Result<Vec<Seen>, StoreError> {
        let host = host.to_owned();
        self.read("read the current state", move |connection| {
            connection
                .prepare_cached(&format!(
                    "{FACTS} JOIN current ON current.boot = facts.boot AND current.seq = facts.seq
                     WHERE current.host = (SELECT id FROM hosts WHERE name = ?1)
                     ORDER BY facts.at_us"
                ))?
                .query_map([host], seen)?
                .flat_map(Result::transpose)
                .collect()
        })
        .await
    }

    /// Of all hosts, what holds for things of the kind `about` ("host_address").
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn current_about(&self, about: &'static str) -> Result<Vec<Seen>, StoreError> {
        self.read("read the current state", move |connection| {
            connection
                .prepare_cached(&format!(
                    "{FACTS} JOIN current ON current.boot = facts.boot AND current.seq = facts.seq
                     WHERE current.entity >= ?1 || ' ' AND current.entity < ?1 || '!'"
                ))?
                .query_map([about], seen)?
                .flat_map(Result::transpose)
                .collect()
        })
        .await
    }

    /// Facts by name; those that are no more there are left out.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn facts_by_id(&self, ids: Vec<FactId>) -> Result<Vec<Seen>, StoreError> {
        self.read("read facts", move |connection| {
            let mut statement = connection.prepare_cached(&format!(
                "{FACTS} WHERE hosts.name = ?1 AND boots.boot = ?2 AND boots.host = hosts.id
                 AND facts.boot = boots.id AND facts.seq = ?3"
            ))?;
            let mut found = Vec::with_capacity(ids.len());
            for id in ids {
                let fact = statement
                    .query_row(params![id.host, id.boot, signed(id.seq)], seen)
                    .optional()?;
                found.extend(fact.flatten());
            }
            Ok(found)
        })
        .await
    }

    /// Every host that was ever heard, by name.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn hosts(&self) -> Result<Vec<HostRow>, StoreError> {
        self.read("read the hosts", |connection| {
            connection
                .prepare_cached(
                    "SELECT name, boot, agent_version, kernel, distribution, peer, tls, offset_us,
                     tolerance_us, last_seen_us, facts FROM hosts ORDER BY name",
                )?
                .query_map([], |row| {
                    Ok(HostRow {
                        name: row.get(0)?,
                        boot: row.get(1)?,
                        agent_version: row.get(2)?,
                        kernel: row.get(3)?,
                        distribution: row.get(4)?,
                        peer: row.get(5)?,
                        tls: row.get(6)?,
                        offset_us: row.get(7)?,
                        tolerance_us: unsigned(row.get(8)?),
                        last_seen_us: row.get(9)?,
                        facts: unsigned(row.get(10)?),
                    })
                })?
                .collect()
        })
        .await
    }

    /// Incidents, newest first. `open`: only those that are, or are not.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn incidents(
        &self,
        open: Option<bool>,
        gateway: Option<String>,
        limit: u32,
    ) -> Result<Vec<IncidentRow>, StoreError> {
        self.read("read incidents", move |connection| {
            let mut text = String::from(
                "SELECT explanation, opened_us, updated_us, held_us FROM incidents WHERE 1",
            );
            let mut values: Vec<rusqlite::types::Value> = Vec::new();
            if let Some(open) = open {
                text.push_str(" AND open = ?");
                values.push(i64::from(open).into());
            }
            if let Some(gateway) = gateway {
                text.push_str(" AND gateway = ?");
                values.push(gateway.into());
            }
            text.push_str(" ORDER BY opened_us DESC, id DESC LIMIT ?");
            values.push(i64::from(limit).into());
            connection
                .prepare_cached(&text)?
                .query_map(params_from_iter(values), incident)?
                .flat_map(Result::transpose)
                .collect()
        })
        .await
    }

    /// One incident.
    ///
    /// # Errors
    /// If the database refuses.
    pub async fn incident(&self, id: &str) -> Result<Option<IncidentRow>, StoreError> {
        let id = id.to_owned();
        self.read("read an incident", move |connection| {
            connection
                .prepare_cached(
                    "SELECT explanation, opened_us, updated_us, held_us FROM incidents WHERE id = ?1",
                )?
                .query_row([id], incident)
                .optional()
                .map(Option::flatten)
        })
        .await
    }
}

/// `None` where the fact is of a kind that this version does not know, or damaged.
fn seen(row: &Row<'_>) -> Result<Option<Seen>, rusqlite::Error> {
    let bytes = row.get_ref(5)?.as_bytes()?;
    let id = FactId { host: row.get(0)?, boot: row.get(1)?, seq: unsigned(row.get(2)?) };
    let Ok(v1::Fact { kind: Some(kind), boottime_us, .. }) = v1::Fact::decode(bytes) else {
        return Ok(None);
    };
    let tolerance_us = unsigned(row.get(4)?);
    Ok(Some(Seen { id, at_us: row.get(3)?, tolerance_us, boottime_us, kind }))
}

fn incident(row: &Row<'_>) -> Result<Option<IncidentRow>, rusqlite::Error> {
    let Ok(explanation) = v1::Explanation::decode(row.get_ref(0)?.as_bytes()?) else {
        tracing::warn!("an incident in the database is damaged and left out");
        return Ok(None);
    };
    let (opened_us, updated_us, held_us) = (row.get(1)?, row.get(2)?, row.get(3)?);
    Ok(Some(IncidentRow { explanation, opened_us, updated_us, held_us }))
}
