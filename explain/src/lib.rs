//! Facts in, explanations out. Pure: no IO, no clock, no async, no randomness: the same snapshot gives the same
//! explanation, byte for byte.
//!
//! Backward chaining: a [`Rule`] explains one link, and the engine walks from the symptom until nothing explains
//! further. The last link is the root cause.

mod address;
mod effect;
mod engine;
mod explanation;
mod find;
mod rule;
mod snapshot;

pub use address::{Address, Coverage};
pub use rule::{Rule, catalog};
pub use snapshot::{Seen, Sight, Snapshot};
use why502_proto::Kind;
use why502_proto::v1::Explanation;

/// What is to be explained.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Question {
    /// Host of the gateway.
    pub gateway: String,
    /// Route as the facts name it; "" for every route of the endpoint.
    pub route: String,
    /// Endpoint as the facts name it; "" where the gateway chose none.
    pub endpoint: String,
}

/// Every question that the snapshot raises: one per route and endpoint on which requests failed, and one per declared
/// endpoint. In a fixed order.
pub fn questions(snapshot: &Snapshot) -> Vec<Question> {
    engine::questions(snapshot)
}

/// Explains what the gateway shows for `question` at the end of the snapshot: what failed, if something did, else what
/// would fail. `None`: nothing is wrong, as far as can be seen.
///
/// The fields that belong to an incident (`incident`, `state`, `opened`, `updated`, `resolved`) are left empty.
pub fn explain(snapshot: &Snapshot, question: &Question) -> Option<Explanation> {
    explanation::explain(snapshot, question)
}

/// How long a route must be quiet before its failures count as over, where the access log says nothing of it.
const QUIET_US: i64 = 30_000_000;

/// Whether the failures of `question` are over: the route answered without server errors since the last one, or nothing
/// failed for a while and nothing is wrong when looking forward.
pub fn recovered(snapshot: &Snapshot, question: &Question) -> bool {
    let Some(symptom) = engine::observed(snapshot, question) else { return true };
    let last_us = symptom.failures.last().map_or(0, |fact| fact.at_us);
    let answered = snapshot.between(&question.gateway, last_us, snapshot.now_us()).any(|fact| {
        matches!(&fact.kind, Kind::RequestCounts(counts)
            if counts.route == question.route
                && (counts.endpoint.is_empty() || counts.endpoint == question.endpoint)
                && counts.success + counts.redirect > 0
                && counts.server_error == 0)
    });
    answered || snapshot.now_us() - last_us >= QUIET_US
}
