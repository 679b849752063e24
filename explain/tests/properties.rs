//! What holds for any facts in any order: it never panics, the order of arrival does not matter, and nothing is cited
//! that was not there by then.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use proptest::prelude::*;
use why502_explain::{Seen, Snapshot, explain, questions, recovered};
use why502_proto::v1::Explanation;
use why502_proto::{FactId, FactLine, rfc3339};

/// 2026-11-24T12:00:00Z
const T_US: i64 = 1_795_521_600_000_000;
/// Facts later than the last failure by more than this are no evidence for it: a second for who saw it late, and one
/// for words about it. The tolerance of the facts comes on top.
const LATE_US: i64 = 2_000_000;
const TOLERANCE_US: u64 = 1_000;

/// Every line of every story.
fn lines() -> Vec<String> {
    fn walk(dir: &Path, into: &mut Vec<String>) {
        let mut entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
        entries.sort();
        for path in entries {
            if path.is_dir() {
                walk(&path, into);
            } else if path.extension().is_some_and(|e| e == "txt") && !path.ends_with("expected.txt") {
                let text = std::fs::read_to_string(&path).unwrap();
                into.extend(text.lines().filter(|l| l.starts_with('T')).map(str::to_owned));
            }
        }
    }
    let mut all = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios"), &mut all);
    all.sort();
    all.dedup();
    assert!(all.len() > 100);
    all
}

/// A line with one of its numbers changed: strange, and still a fact.
fn changed(line: &str, at: usize, number: u32) -> String {
    let fields: Vec<&str> = line.split(' ').collect();
    let numeric: Vec<usize> = (3..fields.len())
        .filter(|&i| fields[i].split_once('=').is_some_and(|(_, v)| v.parse::<u32>().is_ok()))
        .collect();
    let Some(&index) = numeric.get(at % numeric.len().max(1)) else { return line.to_owned() };
    let name = fields[index].split_once('=').unwrap().0;
    let mut fields: Vec<String> = fields.into_iter().map(str::to_owned).collect();
    fields[index] = format!("{name}={number}");
    fields.join(" ")
}

/// A fact, and how it came to be: its line, a shift in time, and a change of a number.
fn facts() -> impl Strategy<Value = Vec<Seen>> {
    let line = proptest::sample::select(lines());
    let shift = prop_oneof![3 => Just(0i64), 1 => -20_000_000i64..20_000_000];
    let change = proptest::option::weighted(0.2, (any::<usize>(), 0u32..70_000));
    proptest::collection::vec((line, shift, change), 1..120).prop_map(|drawn| {
        let mut facts = Vec::new();
        for (seq, (line, shift_us, change)) in drawn.into_iter().enumerate() {
            let line = change.map_or(line.clone(), |(at, number)| changed(&line, at, number));
            let Ok(fact) = line.parse::<FactLine>() else { continue };
            let offset_us = fact.offset_us + shift_us;
            facts.push(Seen {
                id: FactId { host: fact.host, boot: "b".into(), seq: seq as u64 + 1 },
                at_us: T_US + offset_us,
                tolerance_us: TOLERANCE_US,
                boottime_us: u64::try_from(3_600_000_000 + offset_us).unwrap(),
                kind: fact.kind,
            });
        }
        facts
    })
}

fn all(facts: Vec<Seen>, now_us: i64) -> Vec<(Explanation, bool)> {
    let snapshot = Snapshot::new(facts, now_us);
    let mut said = Vec::new();
    for question in questions(&snapshot) {
        if let Some(explanation) = explain(&snapshot, &question) {
            said.push((explanation, recovered(&snapshot, &question)));
        }
    }
    said
}

fn cited(explanation: &Explanation) -> impl Iterator<Item = &String> {
    let links = explanation.chain.iter().chain(&explanation.ruled_out).flat_map(|link| &link.facts);
    links.chain(explanation.also.iter().flat_map(|other| &other.facts))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn order_does_not_matter_and_evidence_was_there(
        facts in facts(),
        by in any::<proptest::sample::Index>(),
        now_us in T_US - 5_000_000..T_US + 30_000_000,
    ) {
        let said = all(facts.clone(), now_us);
        let mut other = facts.clone();
        other.rotate_left(by.index(facts.len().max(1)).min(facts.len().saturating_sub(1)));
        other.reverse();
        prop_assert_eq!(&said, &all(other, now_us));
        for (explanation, _) in &said {
            let symptom = explanation.symptom.as_ref().unwrap();
            for id in cited(explanation) {
                let fact = facts.iter().find(|fact| fact.id.to_string() == *id);
                prop_assert!(fact.is_some(), "{} was not observed", id);
                let at_us = fact.unwrap().at_us;
                prop_assert!(at_us <= now_us);
                let tolerance_us = LATE_US + i64::try_from(TOLERANCE_US).unwrap();
                let earliest = rfc3339(at_us - tolerance_us);
                prop_assert!(symptom.last.is_empty() || earliest <= symptom.last, "{} is late", id);
            }
            let sure = explanation.confidence != "possible";
            prop_assert_eq!(explanation.verdict == "explained", sure);
            prop_assert_eq!(explanation.root_cause.is_empty(), !sure);
            prop_assert!(!sure || explanation.chain.iter().all(|link| !link.facts.is_empty()));
            prop_assert!(!explanation.headline.is_empty());
            for text in [&explanation.check, &explanation.fix, &explanation.headline] {
                prop_assert!(!text.contains(['{', '}']) || text.contains("%{"), "{}", text);
            }
        }
    }
}
