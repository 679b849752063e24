//! From a batch to facts that can be stored: checked, dated, named.

use prost::Message as _;
use why502_proto::{Entity, v1};

use super::hello::{Refusal, clipped, is_boot_id};
use crate::clock::{BOOTTIME_MAX_US, BootClock, Placed};
use crate::metrics::Metrics;
use crate::store::{Append, Arrived};

/// Facts in one batch (ingest.proto).
const FACTS_MAX: usize = 512;
/// Largest fact: the largest message (an endpoint, last words) is a tenth of it.
const FACT_BYTES_MAX: usize = 64 * 1024;

/// Who the batch is from, as far as its facts depend on it.
pub(super) struct Origin<'a> {
    /// Host of the stream.
    pub(super) host: &'a str,
    /// Boot that the stream's hello named.
    pub(super) boot: &'a str,
    /// Its clock.
    pub(super) clock: &'a BootClock,
    /// Now, by the collector's clock.
    pub(super) now_us: i64,
}

/// Takes a batch apart.
///
/// # Errors
/// If it is not one by the contract. A fact whose time cannot be, or whose kind is not known, is no error.
pub(super) fn prepare(
    batch: v1::Batch,
    origin: &Origin<'_>,
    metrics: &Metrics,
) -> Result<Append, Refusal> {
    if !is_boot_id(&batch.boot_id) {
        return Err(Refusal::Invalid(format!("{:?} is not a boot id", clipped(&batch.boot_id))));
    }
    if batch.facts.len() > FACTS_MAX {
        let count = batch.facts.len();
        return Err(Refusal::Invalid(format!("{count} facts in a batch, {FACTS_MAX} are allowed")));
    }
    let own_boot = batch.boot_id == origin.boot;
    let mut facts = Vec::with_capacity(batch.facts.len());
    let mut last = 0;
    for fact in batch.facts {
        if fact.seq <= last || i64::try_from(fact.seq).is_err() {
            let seq = fact.seq;
            return Err(Refusal::Invalid(format!("fact {seq} follows fact {last} in a batch")));
        }
        last = fact.seq;
        let bytes = fact.encoded_len();
        if bytes > FACT_BYTES_MAX {
            let what = format!("fact {last} has {bytes} bytes, {FACT_BYTES_MAX} are allowed");
            return Err(Refusal::Invalid(what));
        }
        facts.push(arrive(fact, own_boot, origin, metrics));
    }
    let epoch = own_boot.then(|| origin.clock.epoch());
    let host = origin.host.to_owned();
    Ok(Append { host, boot: batch.boot_id, epoch, heard_us: origin.now_us, facts })
}

fn arrive(mut fact: v1::Fact, own_boot: bool, origin: &Origin<'_>, metrics: &Metrics) -> Arrived {
    let Placed { at_us, tolerance_us, misdated } = if own_boot {
        origin.clock.place(fact.boottime_us, origin.now_us)
    } else {
        origin.clock.place_unseen_boot(fact.realtime_us, origin.now_us)
    };
    if misdated {
        metrics.facts_misdated.inc();
    }
    fact.boottime_us = fact.boottime_us.min(BOOTTIME_MAX_US);
    let entity = fact.kind.as_ref().and_then(Entity::of);
    Arrived { seq: fact.seq, at_us, tolerance_us, fact, entity }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_764_000_000_000_000;

    fn check(boot: &str, seqs: &[u64]) -> Result<Vec<(u64, i64)>, String> {
        let clock = BootClock::begin(None, 10_000_000, NOW, NOW);
        let origin = Origin { host: "app-1", boot: "b1", clock: &clock, now_us: NOW };
        let fact = |seq: &u64| v1::Fact {
            seq: *seq,
            boottime_us: 9_000_000,
            realtime_us: NOW - 7_000_000,
            kind: None,
        };
        let batch = v1::Batch { boot_id: boot.into(), facts: seqs.iter().map(fact).collect() };
        let append = prepare(batch, &origin, &Metrics::default()).map_err(|r| r.to_string())?;
        Ok(append.facts.iter().map(|fact| (fact.seq, fact.at_us)).collect())
    }

    #[test]
    fn facts_of_this_boot_go_by_boot_time_and_of_another_by_wall_time() {
        assert_eq!(check("b1", &[1, 2]).unwrap(), [(1, NOW - 1_000_000), (2, NOW - 1_000_000)]);
        assert_eq!(check("b0", &[1]).unwrap(), [(1, NOW - 7_000_000)]);
    }

    #[test]
    fn order_and_bounds_are_kept() {
        assert!(check("b1", &[2, 1]).unwrap_err().contains("fact 1 follows fact 2"));
        assert!(check("b1", &[1, 1]).is_err());
        assert!(check("b1", &[0]).is_err(), "seq begins at 1");
        assert!(check("b1", &[u64::MAX]).is_err());
        assert!(check("b1", &[1, 9]).is_ok(), "a gap is no error");
        assert!(check("b/1", &[1]).unwrap_err().contains("not a boot id"));
        assert!(check("b1", &(1..=513).collect::<Vec<_>>()).unwrap_err().contains("513 facts"));
    }
}
