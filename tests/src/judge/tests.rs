//! One answer, looked at by scenarios that expect different things of it.

use super::*;
use crate::scenario::Expect;
use crate::view::StoredFact;

const BROKEN_US: i64 = 1_000_000_000_000_000;

fn at(offset_ms: i64) -> String {
    jiff::Timestamp::from_microsecond(BROKEN_US + offset_ms * 1000).unwrap().to_string()
}

fn scenario(root_cause: &str) -> Scenario {
    let text = "about = \"\"\nhosts = [\"gw\", \"app1\"]\ngateway = \"nginx\"\nurl = \"http://gw/\"\n\
        [expect]\nroot_cause = \"\"";
    let mut scenario: Scenario = toml::from_str(text).unwrap();
    scenario.expect = Expect {
        root_cause: root_cause.to_owned(),
        hosts: vec!["app1".to_owned()],
        chain: vec!["process.not_running".to_owned(), root_cause.to_owned()],
        ..Expect::default()
    };
    scenario
}

fn answer() -> v1::Explanation {
    let link = |cause: &str, ms: i64, fact: &str| v1::Link {
        cause: cause.to_owned(),
        host: "app1".to_owned(),
        at: at(ms),
        facts: vec![format!("app1/b/{fact}")],
        ..v1::Link::default()
    };
    v1::Explanation {
        incident: "i".to_owned(),
        state: "open".to_owned(),
        kind: "observed".to_owned(),
        gateway: "gw".to_owned(),
        verdict: "explained".to_owned(),
        root_cause: "process.oom_killed.cgroup".to_owned(),
        confidence: "proven".to_owned(),
        chain: vec![
            link("process.not_running", 90, "2"),
            link("process.oom_killed.cgroup", 80, "1"),
        ],
        symptom: Some(v1::Symptom { last: at(900), ..v1::Symptom::default() }),
        opened: at(150),
        updated: at(200),
        ..v1::Explanation::default()
    }
}

fn seen(answer: v1::Explanation) -> Seen {
    let fact = |ms: i64| StoredFact {
        at_us: BROKEN_US + ms * 1000,
        host: "app1".to_owned(),
        kind: "process_exited".to_owned(),
        text: String::new(),
    };
    let facts = [("app1/b/1".to_owned(), fact(80)), ("app1/b/2".to_owned(), fact(90))];
    Seen {
        dry: false,
        healthy_us: BROKEN_US - 1_000_000,
        broken_us: BROKEN_US,
        judged_us: BROKEN_US + 2_000_000,
        looks: vec![Look { at_us: BROKEN_US + 210_000, incidents: vec![answer] }],
        store: Store { facts: facts.into(), tolerance_us: BTreeMap::new() },
        requests: vec![Request {
            begun_us: BROKEN_US + 99_000,
            ended_us: BROKEN_US + 100_000,
            status: 502,
            error: String::new(),
        }],
    }
}

#[test]
fn the_right_answer_is_right_and_timed_from_the_first_failure() {
    let outcome = judge(&scenario("process.oom_killed.cgroup"), &seen(answer()));
    assert_eq!(outcome.problems, Vec::<String>::new());
    assert!(outcome.right_first && outcome.right_in_three && outcome.grounded);
    assert!(!outcome.confidently_wrong && !outcome.abstained);
    assert_eq!(outcome.seconds, Some(0.1));
    assert_eq!(outcome.statuses, BTreeMap::from([("502".to_owned(), 1)]));
}

#[test]
fn another_cause_is_confidently_wrong_and_not_known_is_not() {
    let outcome = judge(&scenario("process.killed_external"), &seen(answer()));
    assert!(!outcome.right_first && outcome.confidently_wrong);
    let possible = v1::Explanation { confidence: "possible".to_owned(), ..answer() };
    assert!(!judge(&scenario("process.killed_external"), &seen(possible)).confidently_wrong);
    let unknown = v1::Explanation { verdict: "unknown".to_owned(), ..answer() };
    let outcome = judge(&scenario("process.killed_external"), &seen(unknown.clone()));
    assert!(outcome.abstained && !outcome.right_first && !outcome.confidently_wrong);
    assert!(judge(&scenario("unknown"), &seen(unknown)).right_first);
    assert!(judge(&scenario("unknown"), &seen(answer())).confidently_wrong);
}

#[test]
fn the_right_cause_on_the_wrong_host_is_wrong() {
    let mut scenario = scenario("process.oom_killed.cgroup");
    scenario.expect.hosts = vec!["gw".to_owned()];
    assert!(!judge(&scenario, &seen(answer())).right_first);
}

#[test]
fn a_missing_link_is_a_problem() {
    let mut short = answer();
    short.chain.remove(0);
    let outcome = judge(&scenario("process.oom_killed.cgroup"), &seen(short));
    assert!(outcome.right_first && !outcome.ok());
}

#[test]
fn citations_must_be_stored_and_lie_before_their_effect() {
    let cause = "process.oom_killed.cgroup";
    let mut absent = seen(answer());
    absent.store.facts.remove("app1/b/1");
    assert!(!judge(&scenario(cause), &absent).grounded);
    let mut late = seen(answer());
    late.store.facts.get_mut("app1/b/1").unwrap().at_us += 5_000_000;
    assert!(!judge(&scenario(cause), &late).grounded);
    let mut foreign = seen(answer());
    foreign.store.facts.get_mut("app1/b/1").unwrap().host = "app2".to_owned();
    assert!(!judge(&scenario(cause), &foreign).grounded);
}

#[test]
fn a_control_has_no_incident() {
    let mut control = scenario("none");
    control.expect.chain.clear();
    let outcome = judge(&control, &seen(answer()));
    assert_eq!((outcome.false_incidents, outcome.ok()), (1, false));
    let quiet = Seen { looks: Vec::new(), requests: Vec::new(), ..seen(answer()) };
    assert!(judge(&control, &quiet).ok());
}

#[test]
fn an_incident_before_the_fault_is_false() {
    let early = v1::Explanation { opened: at(-500), ..answer() };
    let outcome = judge(&scenario("process.oom_killed.cgroup"), &seen(early));
    assert_eq!(outcome.false_incidents, 1);
}
