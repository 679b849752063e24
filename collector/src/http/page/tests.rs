use std::collections::BTreeMap;

use askama::Template as _;
use proptest::prelude::*;
use why502_proto::v1;

use super::*;
use crate::text::sample;

fn now() -> Timestamp {
    sample::NOW.parse().unwrap()
}

/// An explanation in which every text that came from outside is `evil`.
fn hostile(evil: &str) -> v1::Explanation {
    let text = || evil.to_owned();
    let link = || v1::Link {
        cause: text(),
        host: text(),
        at: sample::NOW.into(),
        text: text(),
        facts: vec![text()],
        confidence: text(),
    };
    v1::Explanation {
        incident: text(),
        state: text(),
        kind: text(),
        gateway: text(),
        route: text(),
        endpoint: text(),
        symptom: Some(v1::Symptom {
            phase: text(),
            error: text(),
            message: text(),
            ..v1::Symptom::default()
        }),
        verdict: "explained".into(),
        root_cause: text(),
        confidence: text(),
        headline: text(),
        chain: vec![link(), link()],
        ruled_out: vec![link()],
        missing: vec![v1::Missing {
            host: text(),
            source: text(),
            since: String::new(),
            text: text(),
            causes: vec![text()],
        }],
        also: vec![v1::Candidate {
            cause: text(),
            confidence: text(),
            text: text(),
            facts: vec![text()],
        }],
        check: text(),
        check_host: text(),
        fix: text(),
        hosts: vec![text()],
        routes: vec![text(), format!("{evil}2")],
        ..sample::oom_killed()
    }
}

fn pages(evil: &str) -> [String; 4] {
    let chrome = || Chrome::new("incidents", vec![evil.to_owned()], now());
    let explanation = hostile(evil);
    let entry = v1::TimelineEntry {
        id: evil.into(),
        at: sample::NOW.into(),
        host: evil.into(),
        kind: evil.into(),
        text: evil.into(),
        about: evil.into(),
    };
    let source = |seeing| v1::HostSource {
        source: evil.into(),
        scope: evil.into(),
        seeing,
        since: sample::NOW.into(),
        reason: evil.into(),
        grant: evil.into(),
    };
    let host = v1::Host {
        host: evil.into(),
        state: evil.into(),
        agent_version: evil.into(),
        addresses: vec![evil.into()],
        sources: vec![source(true), source(false)],
        kernel: evil.into(),
        distribution: evil.into(),
        peer: evil.into(),
        ..v1::Host::default()
    };
    let facts = BTreeMap::from([(evil.to_owned(), entry.clone())]);
    let all = std::slice::from_ref(&explanation);
    let asked = (evil.to_owned(), String::new());
    [
        incident::list(chrome(), all, all, std::slice::from_ref(&host), now()).render().unwrap(),
        incident::page(chrome(), &explanation, &facts, now()).render().unwrap(),
        hosts::list(chrome(), &[host], now()).render().unwrap(),
        hosts::timeline(chrome(), evil.into(), asked, &[entry], now()).render().unwrap(),
    ]
}

/// Everything that makes a tag or ends an attribute.
fn skeleton(html: &str) -> String {
    html.chars().filter(|c| "<>\"'".contains(*c)).collect()
}

#[test]
fn a_script_stays_text() {
    for page in pages("x<script>alert(1)</script>\"onload='1'") {
        assert!(!page.contains("<script>"), "{page}");
        assert!(page.contains("x&#60;script&#62;alert(1)"), "{page}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_text_breaks_out_of_its_place(evil in "x([<>\"'&/ =a-z-]|.){0,30}") {
        let tame = pages("x");
        for (page, tame) in pages(&evil).iter().zip(&tame) {
            prop_assert_eq!(skeleton(page), skeleton(tame));
        }
    }
}

#[test]
fn more_hosts_than_lanes_share_the_last() {
    let mut explanation = sample::oom_killed();
    let link = explanation.chain[0].clone();
    for n in 0..6 {
        explanation.chain.push(v1::Link { host: format!("hop-{n}"), ..link.clone() });
    }
    let chrome = Chrome::new("incidents", vec![], now());
    let page = incident::page(chrome, &explanation, &BTreeMap::new(), now()).render().unwrap();
    assert!(page.contains("lanes-4") && page.contains("other hosts") && page.contains("hop-5"));
}
