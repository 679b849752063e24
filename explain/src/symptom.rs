//! What a gateway shows for one question: the failures that belong together, and whether they are over.

use std::collections::BTreeSet;

use why502_proto::v1::{self, Fault};

use crate::Question;
use crate::snapshot::{Said, Snapshot};

/// Failures older than this are no longer what the gateway shows.
const RECENT_US: i64 = 600_000_000;
/// After so long without a failure the next one belongs to another story.
const EPISODE_GAP_US: i64 = 120_000_000;

/// Requests that failed, and belong together.
#[derive(Clone, Debug)]
pub(crate) struct Failures<'a> {
    /// The newest.
    pub(crate) lead: Said<'a, v1::RequestFailed>,
    /// Of the kind that leads, newest known.
    pub(crate) status: u32,
    pub(crate) count: u64,
    pub(crate) first_us: i64,
    pub(crate) last_us: i64,
}

/// What the question's endpoint is called, in all the ways in which facts may name it.
pub(crate) struct Names<'a> {
    names: BTreeSet<&'a str>,
    upstreams: BTreeSet<&'a str>,
}

impl<'a> Names<'a> {
    pub(crate) fn of(snapshot: &'a Snapshot, question: &'a Question) -> Self {
        let mut names = BTreeSet::from([question.endpoint.as_str()]);
        let mut upstreams = BTreeSet::new();
        for declared in snapshot.on::<v1::EndpointDeclared>(&question.gateway) {
            let what = declared.what;
            if !question.route.is_empty() && what.route != question.route {
                continue;
            }
            if what.endpoint == question.endpoint {
                names.extend(what.addresses.iter().map(String::as_str));
            }
            if what.endpoint == question.endpoint || what.addresses.contains(&question.endpoint) {
                names.insert(&what.endpoint);
                if !what.upstream.is_empty() {
                    upstreams.insert(what.upstream.as_str());
                }
            }
        }
        Self { names, upstreams }
    }

    /// The question is about these failures.
    pub(crate) fn mean(&self, question: &Question, failed: &v1::RequestFailed) -> bool {
        if !question.route.is_empty() && failed.route != question.route {
            return false;
        }
        if failed.fault() == Fault::NoLiveUpstreams {
            return question.endpoint.is_empty()
                || failed.upstream.is_empty()
                || self.upstreams.is_empty()
                || self.upstreams.contains(failed.upstream.as_str());
        }
        self.names.contains(failed.endpoint.as_str())
    }

    /// The question is about this endpoint, or its route's counts do not tell endpoints apart.
    pub(crate) fn count(&self, endpoint: &str) -> bool {
        endpoint.is_empty() || self.names.contains(endpoint)
    }
}

/// The failures that the question is about, if there are recent ones.
pub(crate) fn failures<'a>(
    snapshot: &'a Snapshot,
    question: &'a Question,
    names: &Names<'a>,
) -> Option<Failures<'a>> {
    let mut all: Vec<Said<'a, v1::RequestFailed>> = snapshot
        .on::<v1::RequestFailed>(&question.gateway)
        .filter(|failed| names.mean(question, failed.what))
        .collect();
    all.sort_by(|a, b| (a.at_us(), &a.seen.id).cmp(&(b.at_us(), &b.seen.id)));
    let lead = *all.last()?;
    if snapshot.now_us() - lead.at_us() > RECENT_US {
        return None;
    }
    let kind = |failed: &v1::RequestFailed| (failed.phase, failed.fault);
    let (mut count, mut first_us, mut status) = (0, lead.at_us(), 0);
    for failed in all.iter().rev() {
        if first_us - failed.at_us() > EPISODE_GAP_US {
            break;
        }
        first_us = failed.at_us();
        count += u64::from(failed.what.count.max(1));
        if status == 0 && kind(failed.what) == kind(lead.what) {
            status = failed.what.status.unwrap_or(0);
        }
    }
    Some(Failures { lead, status, count, first_us, last_us: lead.at_us() })
}

/// When the newest failure of a question happened.
pub(crate) fn last_failure(snapshot: &Snapshot, question: &Question) -> Option<i64> {
    let names = Names::of(snapshot, question);
    failures(snapshot, question, &names).map(|failures| failures.last_us)
}
