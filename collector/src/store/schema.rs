//! What the database looks like, and how a file becomes one: check, set aside, migrate.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};

use super::{StoreError, is_corrupt, sqlite};
use crate::clock::now_us;

/// File name of the database in the state directory.
pub(super) const FILE: &str = "why502.db";
/// Its being there says that a running collector met damage: the next start sets the database aside.
const SUSPECT: &str = "why502.db.suspect";

/// Steps from an empty file to the present schema; `user_version` counts those that were taken. Only ever
/// append.
const MIGRATIONS: &[&str] = &["
CREATE TABLE hosts (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    boot TEXT NOT NULL DEFAULT '',
    agent_version TEXT NOT NULL DEFAULT '',
    kernel TEXT NOT NULL DEFAULT '',
    distribution TEXT NOT NULL DEFAULT '',
    peer TEXT NOT NULL DEFAULT '',
    tls INTEGER NOT NULL DEFAULT 0,
    offset_us INTEGER NOT NULL DEFAULT 0,
    tolerance_us INTEGER NOT NULL DEFAULT 0,
    last_seen_us INTEGER NOT NULL DEFAULT 0,
    facts INTEGER NOT NULL DEFAULT 0
);
-- stored_seq outlives the facts: what retention deleted is not taken again.
CREATE TABLE boots (
    id INTEGER PRIMARY KEY,
    host INTEGER NOT NULL REFERENCES hosts(id),
    boot TEXT NOT NULL,
    stored_seq INTEGER NOT NULL DEFAULT 0,
    missing INTEGER NOT NULL DEFAULT 0,
    epoch_us INTEGER,
    tolerance_us INTEGER,
    UNIQUE (host, boot)
);
CREATE TABLE facts (
    boot INTEGER NOT NULL REFERENCES boots(id),
    seq INTEGER NOT NULL,
    host INTEGER NOT NULL REFERENCES hosts(id),
    at_us INTEGER NOT NULL,
    tolerance_us INTEGER NOT NULL,
    bytes BLOB NOT NULL,
    PRIMARY KEY (boot, seq)
) WITHOUT ROWID;
CREATE INDEX facts_of_host ON facts (host, at_us);
CREATE INDEX facts_by_time ON facts (at_us);
-- The fact that holds for each thing that still is.
CREATE TABLE current (
    host INTEGER NOT NULL REFERENCES hosts(id),
    entity TEXT NOT NULL,
    boot INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (host, entity)
) WITHOUT ROWID;
CREATE INDEX current_fact ON current (boot, seq);
CREATE TABLE incidents (
    id TEXT PRIMARY KEY,
    open INTEGER NOT NULL,
    gateway TEXT NOT NULL,
    opened_us INTEGER NOT NULL,
    updated_us INTEGER NOT NULL,
    held_us INTEGER NOT NULL,
    explanation BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX incidents_by_time ON incidents (opened_us);
"];

/// Opens the database of `dir` for writing. A damaged one is set aside, and the second value says so.
pub(super) fn open(dir: &Path) -> Result<(Connection, Option<String>), StoreError> {
    let path = dir.join(FILE);
    let suspect = dir.join(SUSPECT);
    if suspect.exists() {
        let warning = set_aside(&path)?;
        fs::remove_file(&suspect)
            .map_err(|source| StoreError::Io { path: suspect.clone(), source })?;
        return Ok((connect(&path)?, Some(warning)));
    }
    match connect(&path) {
        Ok(connection) => Ok((connection, None)),
        Err(StoreError::Sqlite { source, .. }) if is_corrupt(&source) => {
            let warning = set_aside(&path)?;
            Ok((connect(&path)?, Some(warning)))
        }
        Err(error) => Err(error),
    }
}

/// Makes the next [`open`] set the database aside.
pub(super) fn mark_suspect(dir: &Path) {
    if let Err(error) = fs::write(dir.join(SUSPECT), b"") {
        tracing::error!("cannot mark the damaged database: {error}");
    }
}

/// Opens the database for reading only.
pub(super) fn open_reader(path: &Path) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(super::BUSY_MAX)?;
    Ok(connection)
}

fn connect(path: &Path) -> Result<Connection, StoreError> {
    let connection = Connection::open(path).map_err(sqlite("open the database"))?;
    connection.busy_timeout(super::BUSY_MAX).map_err(sqlite("set the timeout"))?;
    let version: i64 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(sqlite("read the schema version"))?;
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    if version > MIGRATIONS.len() {
        let known = MIGRATIONS.len();
        return Err(StoreError::Newer { path: path.to_owned(), found: version, known });
    }
    check(&connection, path)?;
    // FULL: the WAL is synced at each commit, so what was acknowledged survives a power cut. See
    // <https://www.sqlite.org/pragma.html#pragma_synchronous>. auto_vacuum must come before the first table.
    connection
        .execute_batch(
            "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             PRAGMA journal_size_limit = 67108864; PRAGMA cache_size = -8192;",
        )
        .map_err(sqlite("prepare the database"))?;
    for (done, step) in MIGRATIONS.iter().enumerate().skip(version) {
        let batch = format!("BEGIN; {step}; PRAGMA user_version = {}; COMMIT;", done + 1);
        connection.execute_batch(&batch).map_err(sqlite("migrate the database"))?;
    }
    connection.set_prepared_statement_cache_capacity(32);
    Ok(connection)
}

fn check(connection: &Connection, path: &Path) -> Result<(), StoreError> {
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(sqlite("check the database"))?;
    if verdict == "ok" {
        return Ok(());
    }
    tracing::error!("{} is damaged: {verdict}", path.display());
    let source = rusqlite::Error::SqliteFailure(
        rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
        Some(verdict),
    );
    Err(StoreError::Sqlite { operation: "check the database", source })
}

/// Moves the database and its side files out of the way, for a person to look at.
fn set_aside(path: &Path) -> Result<String, StoreError> {
    let seconds = now_us() / 1_000_000;
    let with = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    };
    let aside = with(&format!(".corrupt-{seconds}"));
    for suffix in ["", "-wal", "-shm"] {
        let from = with(suffix);
        let to = with(&format!(".corrupt-{seconds}{suffix}"));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(source) => return Err(StoreError::Io { path: from, source }),
            Ok(()) => {}
        }
    }
    let warning = format!(
        "the database was damaged and set aside as {}: what it held is not shown",
        aside.display()
    );
    tracing::error!("{warning}");
    Ok(warning)
}
