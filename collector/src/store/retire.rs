//! Retention: facts and resolved incidents leave by age and by size, in small steps between commits.
//!
//! The fact that holds for something that still is (`current`) never leaves, however old; nor does an open
//! incident.

use std::time::{Duration, Instant};

use rusqlite::{Connection, params};

use super::signed;
use super::writer::Surroundings;
use crate::clock::now_us;

/// Facts in one step: some 5 ms, so that no commit waits longer for it.
const STEP_FACTS: i64 = 1000;
/// Pages given back to the file system in one step.
const STEP_PAGES: i64 = 512;
/// Pause where nothing was left to do.
const PAUSE: Duration = Duration::from_secs(10);
/// Pause between two steps: retention may use half of the writer.
const PAUSE_BUSY: Duration = Duration::from_millis(5);
/// Steps in a row while the disk is full.
const STEPS_FULL: usize = 8;
/// From this share of the bound on, a warning is shown.
const NEARLY_PERCENT: u64 = 90;

/// How much is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Facts and resolved incidents older than this leave.
    pub age_max: Duration,
    /// Above this size the oldest facts leave, whatever their age.
    pub size_max_bytes: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { age_max: Duration::from_secs(30 * 86_400), size_max_bytes: 4 << 30 }
    }
}

/// When retention works next.
pub(super) struct Retiring {
    retention: Retention,
    due: Instant,
}

impl Retiring {
    pub(super) fn new(retention: Retention) -> Self {
        Self { retention, due: Instant::now() }
    }

    /// How long until the next step.
    pub(super) fn wait(&self) -> Duration {
        self.due.saturating_duration_since(Instant::now())
    }

    /// A step, if it is time. Its failure is not fatal: it comes again.
    pub(super) fn step_if_due(&mut self, connection: &mut Connection, around: &Surroundings) {
        if Instant::now() < self.due {
            return;
        }
        let retired = step(connection, self.retention, around).unwrap_or_else(|error| {
            tracing::warn!("retention failed and will be tried again: {error}");
            0
        });
        around.metrics.facts_retired.inc_by(retired);
        // As long as there is something to do it goes on, but never without commits in between.
        let pause = if retired == 0 { PAUSE } else { PAUSE_BUSY };
        self.due = Instant::now() + pause;
    }

    /// Makes room on a full disk, if there is anything to let go by the rules.
    pub(super) fn make_room(&mut self, connection: &mut Connection, around: &Surroundings) {
        for _ in 0..STEPS_FULL {
            match step(connection, self.retention, around) {
                Ok(0) | Err(_) => return,
                Ok(retired) => around.metrics.facts_retired.inc_by(retired),
            };
        }
    }
}

/// Deletes at most [`STEP_FACTS`] facts; tells how many.
fn step(
    connection: &mut Connection,
    retention: Retention,
    around: &Surroundings,
) -> Result<u64, rusqlite::Error> {
    let size = size_bytes(connection)?;
    around.metrics.store_bytes.set(signed(size));
    warn_if_nearly_full(size, retention, around);
    let age = i64::try_from(retention.age_max.as_micros()).unwrap_or(i64::MAX);
    let over = size > retention.size_max_bytes;
    let before_us = if over { i64::MAX } else { now_us().saturating_sub(age) };
    let transaction = connection.transaction()?;
    let retired = transaction
        .prepare_cached(
            "DELETE FROM facts WHERE (boot, seq) IN (
                 SELECT boot, seq FROM facts INDEXED BY facts_by_time
                 WHERE at_us < ?1 AND NOT EXISTS (
                     SELECT 1 FROM current
                     WHERE current.boot = facts.boot AND current.seq = facts.seq)
                 ORDER BY at_us LIMIT ?2)",
        )?
        .execute(params![before_us, STEP_FACTS])?;
    transaction
        .prepare_cached("DELETE FROM incidents WHERE NOT open AND updated_us < ?1")?
        .execute([now_us().saturating_sub(age)])?;
    transaction.commit()?;
    if retired > 0 {
        let mut vacuum =
            connection.prepare_cached(&format!("PRAGMA incremental_vacuum({STEP_PAGES})"))?;
        let mut rows = vacuum.query([])?;
        // Each row is one page given back.
        while rows.next()?.is_some() {}
    }
    Ok(retired as u64)
}

fn warn_if_nearly_full(size: u64, retention: Retention, around: &Surroundings) {
    let nearly = size / NEARLY_PERCENT * 100 >= retention.size_max_bytes;
    around.health.set_nearly_full(nearly.then(|| {
        format!(
            "the store holds {} MiB of {} MiB: the oldest facts leave before their age",
            size >> 20,
            retention.size_max_bytes >> 20
        )
    }));
}

/// Pages in use, without those that are free.
fn size_bytes(connection: &Connection) -> Result<u64, rusqlite::Error> {
    let pragma = |name: &str| {
        connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0))
    };
    let pages = pragma("page_count")?.saturating_sub(pragma("freelist_count")?);
    Ok(super::unsigned(pages.saturating_mul(pragma("page_size")?)))
}
