//! Explanations over time in, incidents out.

use std::fmt::Write as _;

use super::*;

const NOON: i64 = 1_764_000_000_000_000;

/// Plays looks: each line is `SECONDS ENDPOINT ROUTE CAUSE [COUNT [LAST]]`, or `SECONDS -` for a look with no answer;
/// lines of one time are one look. Gives what was written, one line each.
fn play(script: &str) -> String {
    let mut ledger = Ledger::default();
    let mut names = Vec::new();
    let mut out = String::new();
    let mut looks: Vec<(i64, Vec<Answer>)> = Vec::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<_> = line.split(' ').collect();
        let at: i64 = words[0].parse().unwrap();
        if looks.last().is_none_or(|(last, _)| *last != at) {
            looks.push((at, Vec::new()));
        }
        if words[1] != "-" {
            let answer = answer(&words[1..]);
            looks.last_mut().unwrap().1.push(answer);
        }
    }
    for (at, answers) in looks {
        for row in ledger.take("gw", answers, true, NOON + at * 1_000_000) {
            let e = row.explanation;
            if !names.contains(&e.incident) {
                names.push(e.incident.clone());
            }
            let number = names.iter().position(|name| *name == e.incident).unwrap() + 1;
            let count = e.symptom.unwrap_or_default().count;
            let cause = if e.root_cause.is_empty() { "unknown" } else { &e.root_cause };
            let routes = e.routes.join(",");
            writeln!(out, "{at} #{number} {} {} {routes} {cause} {count}", e.state, e.endpoint)
                .unwrap();
        }
    }
    out
}

fn answer(words: &[&str]) -> Answer {
    let text = |word: &str| if word == "\"\"" { String::new() } else { word.to_owned() };
    let (endpoint, route) = (text(words[0]), text(words[1]));
    let unknown = words[2] == "unknown";
    let count = words.get(3).map_or(1, |count| count.parse().unwrap());
    let last = words.get(4).copied().unwrap_or_default().to_owned();
    let question =
        Question { gateway: "gw".into(), route: route.clone(), endpoint: endpoint.clone() };
    let explanation = v1::Explanation {
        kind: "observed".into(),
        route,
        endpoint,
        verdict: if unknown { "unknown" } else { "explained" }.into(),
        root_cause: if unknown { String::new() } else { words[2].into() },
        symptom: Some(v1::Symptom { count, last, ..v1::Symptom::default() }),
        ..v1::Explanation::default()
    };
    (question, Some(explanation))
}

#[test]
fn an_explanation_that_gets_better_stays_the_same_incident() {
    let out = play(
        "0 a:1 / unknown 1 t0
         1 a:1 / process.not_running 1 t1
         2 a:1 / process.oom_killed 1 t2",
    );
    assert_eq!(
        out,
        "0 #1 open a:1 / unknown 1\n1 #1 open a:1 / process.not_running 1\n\
         2 #1 open a:1 / process.oom_killed 1\n"
    );
}

#[test]
fn evidence_that_ages_out_of_sight_does_not_unexplain() {
    let out = play("0 a:1 / process.oom_killed\n1 a:1 / unknown");
    assert_eq!(out, "0 #1 open a:1 / process.oom_killed 1\n");
}

#[test]
fn what_happens_after_the_last_failure_is_not_its_cause() {
    let out = play(
        "0 a:1 / process.oom_killed 1 t0
         1 a:1 / process.starting 1 t0
         2 a:1 / process.starting 2 t2",
    );
    assert_eq!(out, "0 #1 open a:1 / process.oom_killed 1\n2 #1 open a:1 / process.starting 2\n");
}

#[test]
fn routes_of_one_endpoint_and_cause_are_one_incident() {
    let out = play("0 a:1 /x c 2\n0 a:1 /y c 3\n1 a:1 /x c 2\n1 a:1 /y c 3\n1 a:1 /z c 1");
    assert_eq!(out, "0 #1 open a:1 /x,/y c 5\n1 #1 open a:1 /x,/y,/z c 6\n");
}

#[test]
fn two_endpoints_are_two_incidents() {
    let out = play("0 a:1 / c\n0 b:1 / d");
    assert_eq!(out, "0 #1 open a:1 / c 1\n0 #2 open b:1 / d 1\n");
}

#[test]
fn two_causes_on_two_routes_of_an_endpoint_are_two_incidents() {
    let out = play("0 a:1 /x c\n0 a:1 /y d\n1 a:1 /x c\n1 a:1 /y d");
    assert_eq!(out, "0 #1 open a:1 /x c 1\n0 #2 open a:1 /y d 1\n");
}

#[test]
fn many_failures_are_few_writes() {
    let script: String = (0..=11).map(|s| format!("{s} a:1 / c {}\n", s + 1)).collect();
    assert_eq!(play(&script), "0 #1 open a:1 / c 1\n5 #1 open a:1 / c 6\n10 #1 open a:1 / c 11\n");
}

#[test]
fn it_resolves_when_the_symptom_stays_away() {
    let out = play("0 a:1 / c\n1 -\n2 a:1 / c\n3 -\n4 -\n5 -\n6 -\n7 -");
    assert_eq!(out, "0 #1 open a:1 / c 1\n6 #1 resolved a:1 / c 1\n");
}

#[test]
fn the_same_soon_again_is_the_same_and_later_is_another() {
    let out = play("0 a:1 / c\n1 -\n4 -\n20 a:1 / c\n21 -\n24 -\n100 a:1 / c");
    assert_eq!(
        out,
        "0 #1 open a:1 / c 1\n4 #1 resolved a:1 / c 1\n20 #1 open a:1 / c 1\n\
         24 #1 resolved a:1 / c 1\n100 #2 open a:1 / c 1\n"
    );
}

#[test]
fn another_cause_after_it_was_resolved_is_another_incident() {
    let out = play("0 a:1 / c\n1 -\n4 -\n6 a:1 / d");
    assert_eq!(out, "0 #1 open a:1 / c 1\n4 #1 resolved a:1 / c 1\n6 #2 open a:1 / d 1\n");
}

#[test]
fn no_live_upstreams_joins_the_endpoint_that_explains_it() {
    let out = play("0 a:1 / c\n1 a:1 / c\n1 \"\" / unknown\n2 a:1 / c\n2 \"\" / unknown");
    assert_eq!(out, "0 #1 open a:1 / c 1\n");
}

#[test]
fn an_incomplete_look_resolves_nothing_that_it_did_not_ask() {
    let mut ledger = Ledger::default();
    ledger.take("gw", vec![answer(&["a:1", "/", "c"])], true, NOON);
    let other = |at: i64| {
        let question = Question { gateway: "gw".into(), route: "/".into(), endpoint: "b:1".into() };
        (vec![(question, None)], NOON + at * 1_000_000)
    };
    for second in 1..10 {
        let (answers, at) = other(second);
        assert_eq!(ledger.take("gw", answers, false, at), []);
    }
    assert_eq!(ledger.open(), 1);
}

#[test]
fn late_words_improve_what_is_resolved() {
    let mut ledger = Ledger::default();
    ledger.take("gw", vec![answer(&["a:1", "/", "unknown"])], true, NOON);
    ledger.take("gw", vec![], true, NOON + 1_000_000);
    let rows = ledger.take("gw", vec![], true, NOON + 5_000_000);
    let id = rows[0].explanation.incident.clone();
    let late = ledger.late("gw");
    assert_eq!((late.len(), late[0].held_us), (1, NOON));
    let better = answer(&["a:1", "/", "c"]).1.unwrap();
    let row = ledger.improve(&id, better.clone(), NOON + 6_000_000).unwrap();
    assert_eq!(
        (row.explanation.root_cause.as_str(), row.explanation.state.as_str()),
        ("c", "resolved")
    );
    assert_eq!(ledger.improve(&id, better, NOON + 7_000_000), None, "no better than it is");
    ledger.take("gw", vec![], true, NOON + 300_000_000);
    assert_eq!(ledger.late("gw"), [], "forgotten");
}

#[test]
fn it_goes_on_after_a_restart() {
    let mut before = Ledger::default();
    let rows = before.take("gw", vec![answer(&["a:1", "/", "c"])], true, NOON);
    let mut after = Ledger::restore(rows.clone());
    let answers = vec![answer(&["a:1", "/", "c"])];
    assert_eq!(after.take("gw", answers, true, NOON + 1_000_000), [], "nothing new");
    after.take("gw", vec![], true, NOON + 2_000_000);
    let resolved = after.take("gw", vec![], true, NOON + 6_000_000);
    assert_eq!(resolved[0].explanation.incident, rows[0].explanation.incident);
}

#[test]
fn looks_that_never_ask_for_everything_resolve_all_the_same() {
    let mut ledger = Ledger::default();
    let of = |route: &str, cause: Option<&str>| {
        let (question, explanation) = answer(&["a:1", route, cause.unwrap_or("x")]);
        (question, explanation.filter(|_| cause.is_some()))
    };
    let mut look = |s: i64, answers: Vec<Answer>| {
        let rows = ledger.take("gw", answers, false, NOON + s * 1_000_000);
        rows.into_iter().map(|row| row.explanation.state).collect::<Vec<_>>()
    };
    assert_eq!(look(0, vec![of("/", Some("x")), of("/b", Some("x"))]), ["open"]);
    assert!(look(1, vec![of("/", None)]).is_empty());
    assert!(look(9, vec![of("/", None)]).is_empty(), "nobody asked for /b");
    assert!(look(10, vec![of("/b", None)]).is_empty());
    assert_eq!(look(13, vec![of("/", None)]), ["resolved"]);
}
