//! The text of the facts that an explanation cites, for whoever wants to read them.

use std::collections::{BTreeMap, BTreeSet};

use why502_proto::v1;

use crate::chain::chain;
use crate::view::View;

/// Cited facts by their id. One that is missing here is no longer stored, or the store did not answer: without the
/// facts the explanation still stands, and the page says which were not found.
pub(super) async fn cited(
    view: &View,
    explanation: &v1::Explanation,
) -> BTreeMap<String, v1::TimelineEntry> {
    let links = explanation.chain.iter().chain(&explanation.ruled_out);
    let ids = links.flat_map(|link| &link.facts);
    let ids = ids.chain(explanation.also.iter().flat_map(|candidate| &candidate.facts));
    let ids: BTreeSet<String> = ids.cloned().collect();
    let facts = view.facts(&ids.into_iter().collect::<Vec<_>>()).await;
    if let Err(error) = &facts {
        tracing::warn!(error = %chain(&error), "the facts of an explanation cannot be read");
    }
    facts.unwrap_or_default().into_iter().map(|entry| (entry.id.clone(), entry)).collect()
}
