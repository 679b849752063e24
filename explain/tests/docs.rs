//! `docs/causes.md` is the catalogue, written for people. To accept a change:
//! `UPDATE_EXPECT=1 cargo test -p why502-explain --test docs`.

use std::fmt::Write as _;

use why502_explain::{candidates, catalog};
use why502_proto::v1::{Fault, Phase, RequestFailed};

/// What a gateway feels, how gateways say it, and what it looks like in a fact.
const FELT: &[(&str, &str, Phase, Fault)] = &[
    (
        "refused",
        "nginx, Caddy, Traefik 502; HAProxy 503 `SC`; Apache 503 AH00957; Envoy 503 `UF`",
        Phase::Connect,
        Fault::Econnrefused,
    ),
    (
        "no connection in time",
        "nginx, Traefik 504; HAProxy 503 `sC`; Apache 503; Envoy 503 `UF`; Caddy 502",
        Phase::Connect,
        Fault::Timeout,
    ),
    (
        "closed before the answer",
        "nginx, Caddy, Traefik, Apache 502; HAProxy 502 `SH`; Envoy 503 `UC`",
        Phase::Header,
        Fault::Closed,
    ),
    (
        "no answer in time",
        "nginx, Caddy, Traefik 504; HAProxy 504 `sH`; Apache 502; Envoy 504 `UT`",
        Phase::Header,
        Fault::Timeout,
    ),
    (
        "the endpoint itself answered 502, 503 or 504",
        "every gateway passes it on; only its log, or a header, tells it from its own",
        Phase::Header,
        Fault::Relayed,
    ),
];

#[test]
fn every_cause_is_explained_to_people() {
    let mut text = String::from(
        "# Causes\n\nEvery root cause that why502 knows, from its own catalogue (`why502 rules ID` shows one). Written by \
         a test;\ndo not edit.\n\n## What the gateway feels, and what may be behind it\n\nNearest first. `why502 decode` \
         names these for a log; which one it was, only the facts of the endpoint's host\nsay.\n",
    );
    for (felt, said, phase, fault) in FELT {
        let failed = RequestFailed {
            endpoint: "192.0.2.1:80".to_owned(),
            phase: (*phase).into(),
            fault: (*fault).into(),
            status: (*fault == Fault::Relayed).then_some(502),
            ..RequestFailed::default()
        };
        let fitting = candidates(&failed);
        let names = fitting.causes.iter().map(|cause| link(cause.rule.id));
        let names = names.collect::<Vec<_>>().join(", ");
        writeln!(text, "\n**{}** ({said}): {names}.\n", capital(felt)).unwrap();
        writeln!(text, "To tell them apart: {}", fitting.separator).unwrap();
    }
    let mut family = "";
    let mut rules: Vec<_> = catalog().collect();
    rules.sort_by_key(|rule| rule.id);
    for rule in rules {
        let own = rule.id.split('.').next().unwrap();
        if own != family {
            family = own;
            writeln!(text, "\n## {family}").unwrap();
        }
        let line = |words: &str| words.split_whitespace().collect::<Vec<_>>().join(" ");
        writeln!(text, "\n### {}\n\n{}.\n", rule.id, capital(rule.summary)).unwrap();
        writeln!(text, "{}\n", line(rule.doc)).unwrap();
        writeln!(text, "- Check: `{}`\n- Fix: {}", line(rule.check), line(rule.fix)).unwrap();
    }
    expect_test::expect_file!["../../docs/causes.md"].assert_eq(&text);
}

fn link(id: &str) -> String {
    format!("[{id}](#{})", id.replace('.', ""))
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
