//! The catalogue of causes.

use askama::Template;
use why502_explain::{Rule, catalog};

use super::Chrome;

#[derive(Template)]
#[template(path = "rules.html")]
pub(super) struct ListPage {
    chrome: Chrome,
    count: usize,
    families: Vec<(String, Vec<&'static Rule>)>,
}

#[derive(Template)]
#[template(path = "rule.html")]
pub(super) struct RulePage {
    chrome: Chrome,
    rule: &'static Rule,
    paragraphs: Vec<&'static str>,
}

pub(super) fn list(chrome: Chrome) -> ListPage {
    let mut families: Vec<(String, Vec<&'static Rule>)> = vec![];
    for rule in catalog() {
        let family = rule.id.split('.').next().unwrap_or_default().replace('_', " ");
        match families.iter_mut().find(|(name, _)| *name == family) {
            Some((_, rules)) => rules.push(rule),
            None => families.push((family, vec![rule])),
        }
    }
    ListPage { chrome, count: catalog().count(), families }
}

pub(super) fn page(chrome: Chrome, rule: &'static Rule) -> RulePage {
    RulePage { chrome, rule, paragraphs: rule.doc.split("\n\n").collect() }
}
