//! Facts as text for the tests of this module.

use why502_explain::Seen;
use why502_proto::{Entity, FactId, FactLine};

use crate::store::Committed;

/// A commit of one fact; `T` is `zero_us`.
pub(crate) fn committed_in(boot: &str, seq: u64, zero_us: i64, line: FactLine) -> Committed {
    let id = FactId { host: line.host.clone(), boot: boot.to_owned(), seq };
    let at_us = zero_us + line.offset_us;
    let entity = Entity::of(&line.kind);
    let boottime_us = u64::try_from(line.offset_us).unwrap_or(0);
    let seen = Seen { id, at_us, tolerance_us: 0, boottime_us, kind: line.kind };
    Committed { host: line.host, facts: vec![(seen, entity)] }
}

pub(crate) fn committed(seq: u64, zero_us: i64, line: FactLine) -> Committed {
    committed_in("b1", seq, zero_us, line)
}
