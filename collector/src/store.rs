//! Facts, current state and incidents on disk: SQLite, one file, one writer.
//!
//! Only this module names the database. What [`Store::append`] answered is on disk (WAL, `synchronous=FULL`);
//! a fact is named by (host, boot, seq) and is taken once. One thread writes, whatever waits for it goes into
//! one commit; readers have connections of their own and never wait for it.

mod read;
mod retire;
mod rows;
mod schema;
mod writer;

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot};
use why502_explain::Seen;
use why502_proto::{Entity, v1};

use crate::clock::Epoch;
use crate::metrics::Metrics;

pub use read::{HostRow, TimelineQuery};
pub use retire::Retention;

/// How long one connection waits for a lock of another; only migrations and checkpoints hold any for long.
const BUSY_MAX: Duration = Duration::from_secs(5);
/// Commands that may wait for the writer. A full queue holds back the streams, and they the agents.
const QUEUE_MAX: usize = 1024;
/// Commits that the incidents may be behind before they read the store again instead.
const COMMITS_MAX: usize = 1024;
/// Reads at once, each with a connection.
const READERS_MAX: usize = 4;

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The state directory or a file in it cannot be used.
    #[error("cannot use {}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process works on it.
    #[error("{} is in use by another why502", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// A later version wrote it.
    #[error(
        "{} was written by a newer why502 (schema {found}, this one knows {known})", path.display()
    )]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: usize,
        /// The newest that this program knows.
        known: usize,
    },
    /// SQLite refused.
    #[error("the database refused to {operation}")]
    Sqlite {
        /// What was tried.
        operation: &'static str,
        /// What it said.
        source: rusqlite::Error,
    },
    /// The writer is gone; the program is about to end.
    #[error("the store is closed")]
    Closed,
}

/// A fact on its way to the disk.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Position in the sequence of its boot.
    pub seq: u64,
    /// When it happened, by the collector's clock.
    pub at_us: i64,
    /// How far off that may be.
    pub tolerance_us: u64,
    /// The fact as it is stored.
    pub fact: v1::Fact,
    /// What it is about, if it is a state.
    pub entity: Option<Entity>,
}

/// Facts of one boot of one host, in `seq` order.
#[derive(Clone, Debug)]
pub struct Append {
    /// Host.
    pub host: String,
    /// Its boot.
    pub boot: String,
    /// When that boot was, if the stream measured it.
    pub epoch: Option<Epoch>,
    /// When they arrived.
    pub heard_us: i64,
    /// The facts.
    pub facts: Vec<Arrived>,
}

/// What a stream tells about its host when it begins.
#[derive(Clone, Debug, Default)]
pub struct Greeting {
    /// Host.
    pub host: String,
    /// Its present boot.
    pub boot: String,
    /// Version of the agent program.
    pub agent_version: String,
    /// Address that the stream came from.
    pub peer: String,
    /// It is protected by TLS.
    pub tls: bool,
    /// Host's wall clock minus the collector's.
    pub offset_us: i64,
    /// When it came.
    pub heard_us: i64,
}

/// What is on disk of a boot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Highest position; 0: none.
    pub stored_seq: u64,
    /// When the boot was, as last measured.
    pub epoch: Option<Epoch>,
}

/// Facts that were not there before, now on disk.
#[derive(Debug)]
pub struct Committed {
    /// Host.
    pub host: String,
    /// The facts, each with what it is about.
    pub facts: Vec<(Seen, Option<Entity>)>,
}

/// An incident as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct IncidentRow {
    /// Its explanation, with id and state.
    pub explanation: v1::Explanation,
    /// Opened, microseconds since 1970.
    pub opened_us: i64,
    /// Last changed.
    pub updated_us: i64,
    /// Last moment at which the symptom was there.
    pub held_us: i64,
}

/// The handle. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    writer: mpsc::Sender<writer::Command>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    commits: broadcast::Sender<Arc<Committed>>,
    health: Arc<writer::Health>,
    readers: read::Readers,
    warning: Option<String>,
    /// Given back when the writer has ended.
    lock: Mutex<Option<File>>,
}

impl Store {
    /// Opens, checks and, where needed, creates the database of `dir`.
    ///
    /// # Errors
    /// If the directory cannot be used, another process has it, or a newer version wrote it. Damage is no
    /// error: the file is set aside, and [`Store::warnings`] tells.
    pub fn open(dir: &Path, retention: Retention, metrics: &Metrics) -> Result<Self, StoreError> {
        std::fs::create_dir_all(dir)
            .map_err(|source| StoreError::Io { path: dir.to_owned(), source })?;
        let lock = lock(&dir.join("lock"))?;
        let (connection, warning) = schema::open(dir)?;
        let (writer, commands) = mpsc::channel(QUEUE_MAX);
        let commits = broadcast::Sender::new(COMMITS_MAX);
        let health = Arc::new(writer::Health::default());
        let thread = writer::spawn(
            connection,
            commands,
            writer::Surroundings {
                dir: dir.to_owned(),
                retention,
                metrics: metrics.clone(),
                commits: commits.clone(),
                health: Arc::clone(&health),
            },
        )
        .map_err(|source| StoreError::Io { path: dir.to_owned(), source })?;
        let readers = read::Readers::new(dir.join(schema::FILE), READERS_MAX);
        let (thread, lock) = (Mutex::new(Some(thread)), Mutex::new(Some(lock)));
        let inner = Inner { writer, thread, commits, health, readers, warning, lock };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Notes a stream's beginning, and tells what is on disk of its boot.
    ///
    /// # Errors
    /// If the store is closed or damaged. A full disk is no error: it waits.
    pub async fn greet(&self, greeting: Greeting) -> Result<Standing, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.command(writer::Command::Greet(greeting, reply)).await?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Stores facts, and answers once they are on disk: the highest position that is.
    ///
    /// # Errors
    /// As [`Store::greet`].
    pub async fn append(&self, append: Append) -> Result<u64, StoreError> {
        let (reply, answer) = oneshot::channel();
        self.command(writer::Command::Append(append, reply)).await?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// Stores an incident under its id, in place of what was there.
    ///
    /// # Errors
    /// As [`Store::greet`].
    pub async fn put_incident(&self, row: IncidentRow) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.command(writer::Command::Incident(Box::new(row), reply)).await?;
        answer.await.map_err(|_| StoreError::Closed)?
    }

    /// What is stored from now on. A receiver that lags reads the store again.
    pub fn commits(&self) -> broadcast::Receiver<Arc<Committed>> {
        self.inner.commits.subscribe()
    }

    /// What a person should know: damage at the start, a disk that is full, a size near its bound.
    pub fn warnings(&self) -> Vec<String> {
        self.inner.warning.iter().cloned().chain(self.inner.health.warnings()).collect()
    }

    /// Whether the writer went around its loop within `within`, be it to find the disk still full.
    pub fn alive(&self, within: Duration) -> bool {
        self.inner.health.alive(within)
    }

    /// Whether writes fail at present, and wait.
    pub fn blocked(&self) -> bool {
        self.inner.health.blocked()
    }

    /// Whether the writer met damage: the program has to start anew.
    pub fn damaged(&self) -> bool {
        self.inner.health.damaged()
    }

    /// Writes what waits, ends the writer, and lets another process have the directory.
    pub async fn close(&self) {
        // A writer that is gone already has nothing left to end.
        let _gone = self.inner.writer.send(writer::Command::Stop).await;
        let thread = self.inner.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _joined = tokio::task::spawn_blocking(move || thread.join()).await;
        }
        self.inner.lock.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    async fn command(&self, command: writer::Command) -> Result<(), StoreError> {
        self.inner.writer.send(command).await.map_err(|_| StoreError::Closed)
    }
}

fn lock(path: &Path) -> Result<File, StoreError> {
    let io = |source| StoreError::Io { path: path.to_owned(), source };
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(io)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StoreError::Locked { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(io(source)),
    }
}

fn sqlite(operation: &'static str) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |source| StoreError::Sqlite { operation, source }
}

fn is_corrupt(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

/// SQLite's integers are signed; positions and tolerances are bounded far below.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

#[cfg(test)]
mod tests;
