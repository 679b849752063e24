//! The one thread that writes: takes what waits, commits it at once, answers, and in between lets retention
//! do a step.
//!
//! While the disk is full or fails, it keeps what it took and tries again; nothing is answered, so nothing is
//! acknowledged, and the bounded queue holds back whoever sends.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use prost::Message as _;
use rusqlite::{Connection, Transaction, params};
use tokio::sync::{broadcast, mpsc, oneshot};
use why502_explain::Seen;
use why502_proto::{FactId, Kind, v1};

use super::retire::{Retention, Retiring};
use super::{
    Append, Committed, Greeting, IncidentRow, Standing, StoreError, is_corrupt, schema, signed,
    unsigned,
};
use crate::clock::{Epoch, now_us};
use crate::metrics::Metrics;

/// Commands in one commit: bounds how long the first of them waits for the last.
const GROUP_MAX: usize = 256;
/// Pause before a failed commit is tried again.
const RETRY: Duration = Duration::from_millis(500);
/// Longest time without a sign of life where nothing is to be written.
const IDLE: Duration = Duration::from_secs(1);
/// Boots whose standing is kept in memory: some 10 MB at the most; beyond it is read again.
const BOOTS_MAX: usize = 65_536;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// Everything that can be asked of the writer.
#[derive(Debug)]
pub(super) enum Command {
    Greet(Greeting, Reply<Standing>),
    Append(Append, Reply<u64>),
    Incident(Box<IncidentRow>, Reply<()>),
    Stop,
}

/// What the writer works with.
pub(super) struct Surroundings {
    pub(super) dir: PathBuf,
    pub(super) retention: Retention,
    pub(super) metrics: Metrics,
    pub(super) commits: broadcast::Sender<Arc<Committed>>,
    pub(super) health: Arc<Health>,
}

/// How the writer does, for whoever asks.
#[derive(Debug, Default)]
pub(super) struct Health {
    beat_us: AtomicU64,
    damaged: AtomicBool,
    fault: Mutex<Option<String>>,
    nearly_full: Mutex<Option<String>>,
}

impl Health {
    pub(super) fn warnings(&self) -> Vec<String> {
        let get = |slot: &Mutex<Option<String>>| {
            slot.lock().unwrap_or_else(PoisonError::into_inner).clone()
        };
        get(&self.fault).into_iter().chain(get(&self.nearly_full)).collect()
    }

    pub(super) fn alive(&self, within: Duration) -> bool {
        let beat = self.beat_us.load(Ordering::Relaxed);
        let age = unsigned(now_us()).saturating_sub(beat);
        age <= u64::try_from(within.as_micros()).unwrap_or(u64::MAX)
    }

    pub(super) fn blocked(&self) -> bool {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    pub(super) fn damaged(&self) -> bool {
        self.damaged.load(Ordering::Relaxed)
    }

    pub(super) fn set_nearly_full(&self, text: Option<String>) {
        *self.nearly_full.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    fn set_fault(&self, text: Option<String>) {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner) = text;
    }

    fn beat(&self) {
        self.beat_us.store(unsigned(now_us()), Ordering::Relaxed);
    }
}

pub(super) fn spawn(
    connection: Connection,
    commands: mpsc::Receiver<Command>,
    around: Surroundings,
) -> std::io::Result<JoinHandle<()>> {
    around.health.beat();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    std::thread::Builder::new().name("store".into()).spawn(move || {
        let retiring = Retiring::new(around.retention);
        let mut writer = Writer { connection, around, boots: BTreeMap::new(), retiring };
        runtime.block_on(writer.run(commands));
    })
}

struct Writer {
    connection: Connection,
    around: Surroundings,
    boots: BTreeMap<(String, String), Boot>,
    retiring: Retiring,
}

/// A boot's rows and where its sequence stands.
#[derive(Clone, Copy, Debug)]
struct Boot {
    row: i64,
    host: i64,
    stored_seq: u64,
    epoch: Option<Epoch>,
}

/// What is counted once the commit is done.
#[derive(Clone, Copy, Default)]
struct Counts {
    repeated: u64,
    unknown: u64,
    missing: u64,
}

/// An answer that is given once the commit is done.
enum Answer {
    Standing(Standing),
    Stored(u64, Option<Committed>, Counts),
    Done,
}

impl Writer {
    async fn run(&mut self, mut commands: mpsc::Receiver<Command>) {
        let mut stopping = false;
        while !stopping && !self.around.health.damaged() {
            self.around.health.beat();
            let idle = self.retiring.wait().min(IDLE);
            let first = tokio::time::timeout(idle, commands.recv()).await;
            let mut group = Vec::new();
            match first {
                Ok(Some(Command::Stop) | None) => stopping = true,
                Ok(Some(command)) => group.push(command),
                Err(_idle) => {}
            }
            while group.len() < GROUP_MAX {
                match commands.try_recv() {
                    Ok(Command::Stop) => stopping = true,
                    Ok(command) => group.push(command),
                    Err(_) => break,
                }
            }
            if !group.is_empty() {
                self.write(group).await;
            }
            self.retiring.step_if_due(&mut self.connection, &self.around);
        }
    }

    /// Writes a group, however long it takes.
    async fn write(&mut self, group: Vec<Command>) {
        let began = Instant::now();
        loop {
            let error = match self.commit(&group) {
                Ok(answers) => {
                    self.around.health.set_fault(None);
                    self.around.metrics.commit_seconds.observe(began.elapsed().as_secs_f64());
                    for (command, answer) in group.into_iter().zip(answers) {
                        self.answer(command, answer);
                    }
                    return;
                }
                Err(error) => error,
            };
            // What the transaction would have changed did not happen.
            self.boots.clear();
            if is_corrupt(&error) {
                tracing::error!("the database is damaged ({error}): starting anew");
                schema::mark_suspect(&self.around.dir);
                self.around.health.damaged.store(true, Ordering::Relaxed);
                return;
            }
            if !waits(&error) && group.len() > 1 {
                // One of them is at fault, and must not take the others with it.
                for command in group {
                    Box::pin(self.write(vec![command])).await;
                }
                return;
            }
            if !waits(&error) {
                refuse(group, error);
                return;
            }
            self.block(&error);
            tokio::time::sleep(RETRY).await;
        }
    }

    fn block(&mut self, error: &rusqlite::Error) {
        if !self.around.health.blocked() {
            tracing::error!("cannot store ({error}): nothing is acknowledged until it can");
        }
        let text = format!("facts cannot be stored: {error}; agents keep what is not stored");
        self.around.health.set_fault(Some(text));
        self.around.health.beat();
        self.retiring.make_room(&mut self.connection, &self.around);
    }

    fn commit(&mut self, group: &[Command]) -> Result<Vec<Answer>, rusqlite::Error> {
        if self.boots.len() > BOOTS_MAX {
            self.boots.clear();
        }
        let transaction = self.connection.transaction()?;
        let mut answers = Vec::with_capacity(group.len());
        for command in group {
            answers.push(match command {
                Command::Greet(greeting, _) => {
                    Answer::Standing(greet(&transaction, &mut self.boots, greeting)?)
                }
                Command::Append(append, _) => append_facts(&transaction, &mut self.boots, append)?,
                Command::Incident(row, _) => {
                    put_incident(&transaction, row)?;
                    Answer::Done
                }
                Command::Stop => Answer::Done,
            });
        }
        transaction.commit()?;
        Ok(answers)
    }

    fn answer(&self, command: Command, answer: Answer) {
        // Whoever asked may be gone; what was asked is on disk all the same.
        match (command, answer) {
            (Command::Greet(_, reply), Answer::Standing(standing)) => {
                let _gone = reply.send(Ok(standing));
            }
            (Command::Append(_, reply), Answer::Stored(seq, committed, counts)) => {
                self.around.metrics.facts_repeated.inc_by(counts.repeated);
                self.around.metrics.facts_unknown.inc_by(counts.unknown);
                self.around.metrics.facts_missing.inc_by(counts.missing);
                let fresh = committed.as_ref().map_or(0, |committed| committed.facts.len());
                self.around.metrics.facts_stored.inc_by(fresh as u64);
                let _gone = reply.send(Ok(seq));
                if let Some(committed) = committed {
                    let _nobody = self.around.commits.send(Arc::new(committed));
                }
            }
            (Command::Incident(_, reply), _) => {
                let _gone = reply.send(Ok(()));
            }
            _ => {}
        }
    }
}

/// Whether it may go better later: the disk is full, fails, or is read-only for a while.
fn waits(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{
        CannotOpen, DatabaseBusy, DatabaseLocked, DiskFull, OutOfMemory, ReadOnly, SystemIoFailure,
    };
    matches!(
        error.sqlite_error_code(),
        Some(
            DiskFull
                | SystemIoFailure
                | ReadOnly
                | CannotOpen
                | DatabaseBusy
                | DatabaseLocked
                | OutOfMemory
        )
    )
}

fn refuse(group: Vec<Command>, error: rusqlite::Error) {
    let operation = "store";
    if let Some(command) = group.into_iter().next() {
        tracing::error!("the database refused to store: {error}");
        let error = StoreError::Sqlite { operation, source: error };
        match command {
            Command::Greet(_, reply) => drop(reply.send(Err(error))),
            Command::Append(_, reply) => drop(reply.send(Err(error))),
            Command::Incident(_, reply) => drop(reply.send(Err(error))),
            Command::Stop => {}
        }
    }
}

fn greet(
    transaction: &Transaction<'_>,
    boots: &mut BTreeMap<(String, String), Boot>,
    greeting: &Greeting,
) -> Result<Standing, rusqlite::Error> {
    let boot = find_boot(transaction, boots, &greeting.host, &greeting.boot)?;
    transaction
        .prepare_cached(
            "UPDATE hosts SET boot = ?2, agent_version = ?3, peer = ?4, tls = ?5, offset_us = ?6,
             last_seen_us = max(last_seen_us, ?7) WHERE id = ?1",
        )?
        .execute(params![
            boot.host,
            greeting.boot,
            greeting.agent_version,
            greeting.peer,
            greeting.tls,
            greeting.offset_us,
            greeting.heard_us
        ])?;
    Ok(Standing { stored_seq: boot.stored_seq, epoch: boot.epoch })
}

fn find_boot(
    transaction: &Transaction<'_>,
    boots: &mut BTreeMap<(String, String), Boot>,
    host: &str,
    boot: &str,
) -> Result<Boot, rusqlite::Error> {
    let name = (host.to_owned(), boot.to_owned());
    if let Some(known) = boots.get(&name) {
        return Ok(*known);
    }
    transaction
        .prepare_cached("INSERT OR IGNORE INTO hosts (name) VALUES (?1)")?
        .execute([host])?;
    let host_row: i64 = transaction
        .prepare_cached("SELECT id FROM hosts WHERE name = ?1")?
        .query_row([host], |row| row.get(0))?;
    transaction
        .prepare_cached("INSERT OR IGNORE INTO boots (host, boot) VALUES (?1, ?2)")?
        .execute(params![host_row, boot])?;
    let found = transaction
        .prepare_cached(
            "SELECT id, stored_seq, epoch_us, tolerance_us FROM boots WHERE host = ?1 AND boot = ?2",
        )?
        .query_row(params![host_row, boot], |row| {
            let epoch = match (row.get::<_, Option<i64>>(2)?, row.get::<_, Option<i64>>(3)?) {
                (Some(at_us), Some(off)) => Some(Epoch { at_us, tolerance_us: unsigned(off) }),
                _ => None,
            };
            let stored_seq = unsigned(row.get(1)?);
            Ok(Boot { row: row.get(0)?, host: host_row, stored_seq, epoch })
        })?;
    boots.insert(name, found);
    Ok(found)
}

fn append_facts(
    transaction: &Transaction<'_>,
    boots: &mut BTreeMap<(String, String), Boot>,
    append: &Append,
) -> Result<Answer, rusqlite::Error> {
    let mut boot = find_boot(transaction, boots, &append.host, &append.boot)?;
    let mut fresh = Vec::new();
    let mut counts = Counts::default();
    for arrived in &append.facts {
        if arrived.seq <= boot.stored_seq {
            counts.repeated += 1;
            continue;
        }
        counts.missing += arrived.seq - boot.stored_seq - 1;
        boot.stored_seq = arrived.seq;
        insert(transaction, &boot, arrived)?;
        if let Some(kind) = &arrived.fact.kind {
            describe(transaction, &boot, kind)?;
            let id =
                FactId { host: append.host.clone(), boot: append.boot.clone(), seq: arrived.seq };
            let seen = Seen {
                id,
                at_us: arrived.at_us,
                tolerance_us: arrived.tolerance_us,
                boottime_us: arrived.fact.boottime_us,
                kind: kind.clone(),
            };
            fresh.push((seen, arrived.entity.clone()));
        } else {
            counts.unknown += 1;
        }
    }
    boot.epoch = append.epoch.or(boot.epoch);
    note(transaction, &boot, append, fresh.len(), counts.missing)?;
    boots.insert((append.host.clone(), append.boot.clone()), boot);
    let committed = Committed { host: append.host.clone(), facts: fresh };
    let committed = Some(committed).filter(|committed| !committed.facts.is_empty());
    Ok(Answer::Stored(boot.stored_seq, committed, counts))
}

fn insert(
    transaction: &Transaction<'_>,
    boot: &Boot,
    arrived: &super::Arrived,
) -> Result<(), rusqlite::Error> {
    let seq = signed(arrived.seq);
    transaction
        .prepare_cached(
            "INSERT INTO facts (boot, seq, host, at_us, tolerance_us, bytes)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            boot.row,
            seq,
            boot.host,
            arrived.at_us,
            signed(arrived.tolerance_us),
            arrived.fact.encode_to_vec()
        ])?;
    match &arrived.entity {
        Some(entity) if entity.ends => transaction
            .prepare_cached("DELETE FROM current WHERE host = ?1 AND entity = ?2")?
            .execute(params![boot.host, entity.name])?,
        Some(entity) => transaction
            .prepare_cached(
                "INSERT OR REPLACE INTO current (host, entity, boot, seq) VALUES (?1, ?2, ?3, ?4)",
            )?
            .execute(params![boot.host, entity.name, boot.row, seq])?,
        None => 0,
    };
    Ok(())
}

/// What a host says about itself in facts. A new start of the agent also says everything anew, so what an
/// earlier boot left as current is no more.
fn describe(
    transaction: &Transaction<'_>,
    boot: &Boot,
    kind: &Kind,
) -> Result<(), rusqlite::Error> {
    let Kind::AgentStarted(v1::AgentStarted { kernel, distribution, .. }) = kind else {
        return Ok(());
    };
    transaction
        .prepare_cached("UPDATE hosts SET kernel = ?2, distribution = ?3 WHERE id = ?1")?
        .execute(params![boot.host, kernel, distribution])?;
    transaction
        .prepare_cached("DELETE FROM current WHERE host = ?1 AND boot <> ?2")?
        .execute(params![boot.host, boot.row])?;
    Ok(())
}

fn note(
    transaction: &Transaction<'_>,
    boot: &Boot,
    append: &Append,
    fresh: usize,
    missing: u64,
) -> Result<(), rusqlite::Error> {
    transaction
        .prepare_cached(
            "UPDATE boots SET stored_seq = ?2, missing = missing + ?3, epoch_us = ?4,
             tolerance_us = ?5 WHERE id = ?1",
        )?
        .execute(params![
            boot.row,
            signed(boot.stored_seq),
            signed(missing),
            boot.epoch.map(|epoch| epoch.at_us),
            boot.epoch.map(|epoch| signed(epoch.tolerance_us))
        ])?;
    transaction
        .prepare_cached(
            "UPDATE hosts SET facts = facts + ?2, last_seen_us = max(last_seen_us, ?3),
             tolerance_us = coalesce(?4, tolerance_us) WHERE id = ?1",
        )?
        .execute(params![
            boot.host,
            signed(fresh as u64),
            append.heard_us,
            append.epoch.map(|epoch| signed(epoch.tolerance_us))
        ])?;
    Ok(())
}

fn put_incident(transaction: &Transaction<'_>, row: &IncidentRow) -> Result<(), rusqlite::Error> {
    let explanation = &row.explanation;
    transaction
        .prepare_cached(
            "INSERT OR REPLACE INTO incidents
             (id, open, gateway, opened_us, updated_us, held_us, explanation)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        )?
        .execute(params![
            explanation.incident,
            explanation.state == "open",
            explanation.gateway,
            row.opened_us,
            row.updated_us,
            row.held_us,
            explanation.encode_to_vec()
        ])?;
    Ok(())
}
