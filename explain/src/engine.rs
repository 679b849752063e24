//! Backward chaining: a bounded walk from an effect to its causes, and the choice of the best path.

use std::cmp::Reverse;

use crate::Seen;
use crate::effect::Effect;
use crate::rule::{Rule, catalog};
use crate::snapshot::Snapshot;
use crate::verdict::{Blind, Cause, Confidence, Verdict};

/// Longest chain of causes: the longest real one is no_live_upstreams, missing socket, not running, start limit,
/// killed, and two to spare. It turns rules that explain each other into a short answer instead of an endless one.
const DEPTH_MAX: usize = 8;

/// One link of a path.
#[derive(Clone, Debug)]
pub(crate) struct Step<'a> {
    pub(crate) rule: &'static Rule,
    pub(crate) order: usize,
    pub(crate) cause: Cause<'a>,
}

/// A chain of causes, symptom side first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Path<'a> {
    pub(crate) steps: Vec<Step<'a>>,
    /// Its end asks for a further cause that could not be decided.
    pub(crate) open: bool,
}

impl Path<'_> {
    /// As sure as the weakest link; an open end is no answer.
    pub(crate) fn confidence(&self) -> Confidence {
        if self.open {
            return Confidence::Possible;
        }
        let weakest = self.steps.iter().map(|step| step.cause.confidence).min();
        weakest.unwrap_or(Confidence::Possible)
    }

    pub(crate) fn root(&self) -> Option<&Step<'_>> {
        self.steps.last()
    }

    /// The surest first, then what is known for sure of it, then the deepest, then the catalogue's order.
    fn rank(&self) -> impl Ord + use<> {
        let known = self.known();
        let order = self.steps.last().map_or(usize::MAX, |step| step.order);
        (Reverse(self.confidence()), Reverse(known), Reverse(self.steps.len()), order)
    }

    /// How many links from the symptom on are better than possible.
    pub(crate) fn known(&self) -> usize {
        self.steps.iter().take_while(|step| step.cause.confidence > Confidence::Possible).count()
    }
}

/// A cause that a rule excluded.
#[derive(Clone, Debug)]
pub(crate) struct Excluded<'a> {
    pub(crate) rule: &'static Rule,
    pub(crate) host: Option<&'a str>,
    pub(crate) by: Vec<&'a Seen>,
    pub(crate) text: String,
}

/// Everything that was found on the way.
#[derive(Clone, Debug, Default)]
pub(crate) struct Findings<'a> {
    /// Best first.
    pub(crate) paths: Vec<Path<'a>>,
    pub(crate) excluded: Vec<Excluded<'a>>,
    pub(crate) missing: Vec<(Blind, Vec<&'static str>)>,
}

/// Explains all of `effects`, which share one symptom.
pub(crate) fn walk<'a>(snapshot: &'a Snapshot, effects: &[Effect<'a>]) -> Findings<'a> {
    let mut findings = Findings::default();
    let mut paths = Vec::new();
    for effect in effects {
        paths.extend(judge(snapshot, effect, DEPTH_MAX, &mut findings).0);
    }
    paths.sort_by_cached_key(Path::rank);
    findings.paths = paths;
    findings
}

/// All paths that begin at `effect`, and whether some rule could not decide.
fn judge<'a>(
    snapshot: &'a Snapshot,
    effect: &Effect<'a>,
    depth: usize,
    findings: &mut Findings<'a>,
) -> (Vec<Path<'a>>, bool) {
    let (mut paths, mut undecided) = (Vec::new(), false);
    for (order, rule) in catalog().enumerate().filter(|(_, rule)| (rule.applies_to)(effect)) {
        match (rule.judge)(snapshot, effect) {
            Verdict::Explained(cause) => {
                paths.extend(extend(
                    snapshot,
                    Step { rule, order, cause: *cause },
                    depth,
                    findings,
                ));
            }
            Verdict::RuledOut { by, text } => {
                let host = by.first().map(|fact| fact.id.host.as_str());
                findings.excluded.push(Excluded { rule, host, by, text });
            }
            Verdict::Undecided { missing } => {
                undecided = true;
                for blind in missing {
                    note(&mut findings.missing, blind, rule.id);
                }
            }
            Verdict::NoSign => {}
        }
    }
    (paths, undecided)
}

/// The paths that go on from one link.
fn extend<'a>(
    snapshot: &'a Snapshot,
    step: Step<'a>,
    depth: usize,
    findings: &mut Findings<'a>,
) -> Vec<Path<'a>> {
    let (mut deeper, mut open) = (Vec::new(), false);
    if depth > 1 {
        for next in &step.cause.next {
            let (paths, undecided) = judge(snapshot, next, depth - 1, findings);
            deeper.extend(paths);
            open |= undecided;
        }
    }
    // A cause that is better than possible decides; what else could not be seen is then only mentioned. Without one the
    // link is the root itself, unless somebody who did not see could have told.
    let decided = deeper.iter().any(|path: &Path<'_>| path.confidence() > Confidence::Possible);
    let mut paths = Vec::new();
    if !decided {
        paths.push(Path { steps: vec![step.clone()], open });
    }
    for path in deeper {
        let steps = std::iter::once(step.clone()).chain(path.steps).collect();
        paths.push(Path { steps, open: path.open });
    }
    paths
}

fn note(missing: &mut Vec<(Blind, Vec<&'static str>)>, blind: Blind, cause: &'static str) {
    let known = missing
        .iter_mut()
        .find(|(other, _)| other.host == blind.host && other.source == blind.source);
    match known {
        Some((_, causes)) if causes.contains(&cause) => {}
        Some((_, causes)) => causes.push(cause),
        None => missing.push((blind, vec![cause])),
    }
}
