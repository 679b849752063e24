//! An explanation as text, with the facts that it cites.

use std::fmt::Write as _;

use why502_explain::{Seen, explain, questions, recovered};
use why502_proto::FactLine;
use why502_proto::v1::Explanation;

use super::story::{Story, T_US};

/// Everything that is said about a story.
pub(crate) fn report(story: &Story) -> String {
    let snapshot = story.snapshot();
    let mut text = String::new();
    for question in questions(&snapshot) {
        if let Some(answer) = explain(&snapshot, &question) {
            one(&mut text, story, &answer);
            if answer.kind == "observed" && recovered(&snapshot, &question) {
                text.push_str("over\n");
            }
        }
    }
    if text.is_empty() { "nothing is wrong\n".into() } else { text }
}

fn one(text: &mut String, story: &Story, answer: &Explanation) {
    let symptom = answer.symptom.clone().unwrap_or_default();
    let mut say = |line: String| writeln!(text, "{line}").unwrap();
    say(format!("{} {} {} {}", answer.kind, answer.gateway, answer.route, answer.endpoint));
    if symptom.count > 0 {
        say(format!("  {} {} {} x{}", symptom.status, symptom.phase, symptom.error, symptom.count));
    }
    say(format!("{} {} ({})", answer.verdict, answer.root_cause, answer.confidence));
    say(format!("{}.", answer.headline));
    for (depth, link) in answer.chain.iter().enumerate() {
        let indent = "  ".repeat(depth);
        say(format!("{indent}because {} [{}, {}]", link.text, link.cause, link.confidence));
        for id in &link.facts {
            say(format!("{indent}        {}", line(story, id)));
        }
    }
    for link in &answer.ruled_out {
        say(format!("not {}: {}", link.cause, link.text));
    }
    for missing in &answer.missing {
        let causes = missing.causes.join(", ");
        say(format!(
            "not seen by {} of {}: {} ({causes})",
            missing.source, missing.host, missing.text
        ));
    }
    for other in &answer.also {
        say(format!("also {} [{}]: {}", other.cause, other.confidence, other.text));
    }
    if !answer.check.is_empty() {
        say(format!("check on {}: {}", answer.check_host, answer.check));
    }
    say(format!("fix: {}", answer.fix));
}

fn line(story: &Story, id: &str) -> String {
    let fact: &Seen = story.facts.iter().find(|fact| fact.id.to_string() == id).unwrap();
    let line = FactLine {
        offset_us: fact.at_us - T_US,
        host: fact.id.host.clone(),
        kind: fact.kind.clone(),
    };
    line.to_string()
}
