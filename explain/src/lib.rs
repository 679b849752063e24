//! Facts in, explanations out. Pure: no IO, no clock, no async, no randomness: the same snapshot gives the same
//! explanation, byte for byte.
//!
//! A [`Snapshot`] indexes the facts once. [`questions`] lists what may be asked of it, [`explain`] answers one question
//! by walking back from the symptom, one [`Rule`] for each link, until nothing explains further.

mod address;
mod answer;
mod candidates;
mod effect;
mod engine;
mod forward;
mod rule;
mod snapshot;
mod symptom;
mod verdict;

use std::collections::BTreeSet;

pub use address::Address;
pub use candidates::{Candidate, Candidates, candidates};
pub use rule::{Rule, catalog};
pub use snapshot::{Seen, Sight, Snapshot};
use why502_proto::v1::{Explanation, RequestFailed};

use answer::Asked;
use effect::Effect;
use symptom::Names;

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
///
/// A failure on an address to which a declared name leads belongs to the question of that name, and "no live upstreams"
/// to the questions of the route's endpoints, if there are any.
pub fn questions(snapshot: &Snapshot) -> Vec<Question> {
    let mut questions = BTreeSet::new();
    for gateway in snapshot.hosts() {
        let declared = snapshot.declared(gateway, snapshot.now_us());
        let of = |route: &str, endpoint: &str| Question {
            gateway: gateway.to_owned(),
            route: route.to_owned(),
            endpoint: endpoint.to_owned(),
        };
        questions.extend(declared.iter().map(|d| of(&d.what.route, &d.what.endpoint)));
        for failed in snapshot.on::<RequestFailed>(gateway) {
            let what = failed.what;
            if what.fault() == why502_proto::v1::Fault::NoLiveUpstreams {
                if !declared.iter().any(|d| d.what.route == what.route) {
                    questions.insert(of(&what.route, ""));
                }
                continue;
            }
            let named = declared.iter().find(|d| {
                d.what.route == what.route
                    && (d.what.endpoint == what.endpoint
                        || d.what.addresses.contains(&what.endpoint))
            });
            let endpoint = named.map_or(&what.endpoint, |d| &d.what.endpoint);
            questions.insert(of(&what.route, endpoint));
        }
    }
    questions.into_iter().collect()
}

/// Explains what the gateway shows for `question` at the end of the snapshot: what failed, if something did, else what
/// would fail. `None`: nothing is wrong, as far as can be seen.
///
/// The fields that belong to an incident (`incident`, `state`, `opened`, `updated`, `resolved`) are left empty.
pub fn explain(snapshot: &Snapshot, question: &Question) -> Option<Explanation> {
    let gateway = snapshot.host_name(&question.gateway)?;
    let names = Names::of(snapshot, question);
    let Some(failures) = symptom::failures(snapshot, question, &names) else {
        return forward::predict(snapshot, question);
    };
    let effect = Effect::of_failure(snapshot, gateway, failures.lead);
    let until_us = effect.as_ref().map_or(failures.last_us, |effect| effect.during().to_us);
    let effects: Vec<Effect<'_>> = effect.into_iter().collect();
    let findings = engine::walk(snapshot, &effects);
    let asked = Asked {
        question,
        failures: Some(failures),
        effects,
        until_us: until_us.saturating_add(effect::WORDS_LATE_US),
    };
    Some(answer::answer(&asked, &findings))
}

/// Whether what failed for `question` is over: requests to it succeed again, or none failed for a while and none would.
/// Also true where nothing ever failed.
pub fn recovered(snapshot: &Snapshot, question: &Question) -> bool {
    forward::recovered(snapshot, question)
}
