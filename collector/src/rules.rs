//! The catalogue of causes as people and programs ask for it.

use serde_json::{Value, json};
use why502_explain::{Rule, catalog};

/// The rule of that id.
pub(crate) fn find(id: &str) -> Option<&'static Rule> {
    catalog().find(|rule| rule.id == id)
}

/// `{"rules": [...]}`, in reading order.
pub(crate) fn all_to_json() -> Value {
    json!({ "rules": catalog().map(to_json).collect::<Vec<_>>() })
}

/// One rule, with all that is written about it.
pub(crate) fn to_json(rule: &Rule) -> Value {
    json!({
        "id": rule.id,
        "summary": rule.summary,
        "doc": rule.doc,
        "check": rule.check,
        "fix": rule.fix,
    })
}

/// What to do when there is no rule `id`: the ones that look like it.
pub(crate) fn hint(id: &str) -> String {
    let words: Vec<&str> = id.split(['.', '_', ' ']).filter(|word| word.len() > 2).collect();
    let alike = |rule: &&Rule| words.iter().any(|word| rule.id.contains(word));
    let alike: Vec<&str> = catalog().filter(alike).map(|rule| rule.id).take(5).collect();
    match alike.as_slice() {
        [] => "see the list of all: why502 rules, or /rules".to_owned(),
        alike => format!("did you mean {}?", alike.join(" or ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_miss_gets_a_hint() {
        assert!(find("process.oom_killed.cgroup").is_some());
        assert!(find("oom").is_none());
        assert!(hint("oom").starts_with("did you mean process.oom_killed.cgroup or "));
        assert_eq!(hint("zzz"), "see the list of all: why502 rules, or /rules");
    }
}
