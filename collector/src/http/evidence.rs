//! The text of the facts that an explanation cites, for whoever wants to read them.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use why502_proto::v1;

use crate::text::moment;
use crate::view::View;

/// Facts lie this near to the moment of the link that cites them, or are states from earlier, which are not looked for.
const AROUND: SignedDuration = SignedDuration::from_secs(5);
/// For each host and moment.
const FACTS_MAX: u32 = 2_000;

/// Cited facts by their id. One that is missing here was not found near the moment that its link names.
pub(super) async fn cited(
    view: &View,
    explanation: &v1::Explanation,
) -> BTreeMap<String, v1::TimelineEntry> {
    let links = explanation.chain.iter().chain(&explanation.ruled_out);
    let ids = links.flat_map(|link| &link.facts);
    let ids = ids.chain(explanation.also.iter().flat_map(|candidate| &candidate.facts));
    let wanted: BTreeSet<&str> = ids.map(String::as_str).collect();
    let mut found = BTreeMap::new();
    for (host, at) in moments(explanation) {
        let request = v1::GetTimelineRequest {
            host,
            since: format!("{:.6}", at.saturating_sub(AROUND).unwrap_or(at)),
            until: format!("{:.6}", at.saturating_add(AROUND).unwrap_or(at)),
            limit: FACTS_MAX,
        };
        // Without the facts the explanation still stands; the page says which were not found.
        let Ok(answer) = view.timeline(request).await else { continue };
        let cited = answer.entries.into_iter().filter(|entry| wanted.contains(entry.id.as_str()));
        found.extend(cited.map(|entry| (entry.id.clone(), entry)));
    }
    found
}

/// The moments at which the explanation's hosts were seen to do something.
fn moments(explanation: &v1::Explanation) -> BTreeSet<(String, Timestamp)> {
    let of = |host: &str, at: &str| moment::parse(at).map(|at| (host.to_owned(), at));
    let links = explanation.chain.iter().chain(&explanation.ruled_out);
    let mut moments: BTreeSet<_> = links.filter_map(|link| of(&link.host, &link.at)).collect();
    let symptom = explanation.symptom.clone().unwrap_or_default();
    for at in [&symptom.first, &symptom.last, &explanation.opened] {
        moments.extend(explanation.hosts.iter().filter_map(|host| of(host, at)));
    }
    moments
}
