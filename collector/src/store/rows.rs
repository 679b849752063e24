//! What one commit writes, row by row.

use std::collections::BTreeMap;

use prost::Message as _;
use rusqlite::{Transaction, params};
use why502_explain::Seen;
use why502_proto::{FactId, Kind, v1};

use super::{Append, Committed, Greeting, IncidentRow, Standing, signed, unsigned};
use crate::clock::Epoch;

/// Boots by host and boot id.
pub(super) type Boots = BTreeMap<(String, String), Boot>;

/// A boot's rows and where its sequence stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Boot {
    row: i64,
    host: i64,
    stored_seq: u64,
    epoch: Option<Epoch>,
}

/// What is counted once the commit is done.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) repeated: u64,
    pub(super) unknown: u64,
    pub(super) missing: u64,
}

/// What came of an append.
pub(super) struct Appended {
    /// Highest position that is stored.
    pub(super) stored_seq: u64,
    /// What was not there before.
    pub(super) committed: Option<Committed>,
    pub(super) counts: Counts,
}

pub(super) fn greet(
    transaction: &Transaction<'_>,
    boots: &mut Boots,
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
    boots: &mut Boots,
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

pub(super) fn append_facts(
    transaction: &Transaction<'_>,
    boots: &mut Boots,
    append: &Append,
) -> Result<Appended, rusqlite::Error> {
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
    Ok(Appended { stored_seq: boot.stored_seq, committed, counts })
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

pub(super) fn put_incident(
    transaction: &Transaction<'_>,
    row: &IncidentRow,
) -> Result<(), rusqlite::Error> {
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
