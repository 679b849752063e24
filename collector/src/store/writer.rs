//! The one thread that writes: takes what waits, commits it at once, answers, and in between lets retention
//! do a step.
//!
//! While the disk is full or fails, it keeps what it took and tries again; nothing is answered, so nothing is
//! acknowledged, and the bounded queue holds back whoever sends.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rusqlite::Connection;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::retire::{Retention, Retiring};
use super::rows::{Appended, Boots, append_facts, greet, put_incident};
use super::{Append, Committed, Greeting, IncidentRow, Standing, StoreError, is_corrupt, schema};
use crate::clock::Beat;
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
    beat: Beat,
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
        self.beat.alive(within)
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
        self.beat.beat();
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
        let mut writer = Writer { connection, around, boots: Boots::new(), retiring };
        runtime.block_on(writer.run(commands));
    })
}

struct Writer {
    connection: Connection,
    around: Surroundings,
    boots: Boots,
    retiring: Retiring,
}

/// An answer that is given once the commit is done.
enum Answer {
    Standing(Standing),
    Stored(Appended),
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
                Command::Append(append, _) => {
                    Answer::Stored(append_facts(&transaction, &mut self.boots, append)?)
                }
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
            (Command::Append(_, reply), Answer::Stored(appended)) => {
                let Appended { stored_seq, committed, counts } = appended;
                self.around.metrics.facts_repeated.inc_by(counts.repeated);
                self.around.metrics.facts_unknown.inc_by(counts.unknown);
                self.around.metrics.facts_missing.inc_by(counts.missing);
                let fresh = committed.as_ref().map_or(0, |committed| committed.facts.len());
                self.around.metrics.facts_stored.inc_by(fresh as u64);
                let _gone = reply.send(Ok(stored_seq));
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
