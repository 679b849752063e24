//! Facts in, explanations out. Pure: no IO, no clock, no async, no randomness: the same snapshot gives the same
//! explanation, byte for byte.

mod address;
mod snapshot;

pub use address::{Address, Coverage};
pub use snapshot::{Seen, Sight, Snapshot};
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
pub fn questions(_snapshot: &Snapshot) -> Vec<Question> {
    Vec::new()
}

/// Explains what the gateway shows for `question` at the end of the snapshot: what failed, if something did, else what
/// would fail. `None`: nothing is wrong, as far as can be seen.
///
/// The fields that belong to an incident (`incident`, `state`, `opened`, `updated`, `resolved`) are left empty.
pub fn explain(_snapshot: &Snapshot, _question: &Question) -> Option<Explanation> {
    None
}
