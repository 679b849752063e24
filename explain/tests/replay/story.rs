//! A scenario's facts, as the collector would hand them over.

use std::path::Path;

use why502_explain::{Seen, Snapshot};
use why502_proto::{FactId, FactLine};

/// 2026-11-24T12:00:00Z
pub(crate) const T_US: i64 = 1_795_521_600_000_000;
/// Hosts are up for an hour at `T`.
const UPTIME_US: i64 = 3_600_000_000;
/// When no moment is named, the story is looked at so long after its last fact.
const AFTER_US: i64 = 2_000_000;

/// What happened, and when it is looked at.
#[derive(Clone, Debug)]
pub(crate) struct Story {
    pub(crate) facts: Vec<Seen>,
    pub(crate) now_us: i64,
}

impl Story {
    pub(crate) fn read(dir: &Path) -> Self {
        let path = dir.join("facts.txt");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        assert!(text.starts_with('#'), "{path:?}: the first line says what the story is about");
        let (mut lines, mut now_us) = (Vec::new(), None);
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("include ") {
                let shared = dir.parent().unwrap().parent().unwrap().join(format!("{name}.txt"));
                let text = std::fs::read_to_string(&shared).unwrap();
                lines.extend(text.lines().map(str::to_owned));
            } else if let Some(moment) = line.strip_prefix("now ") {
                let fact: FactLine = format!("{moment} now agent_stopped").parse().unwrap();
                now_us = Some(T_US + fact.offset_us);
            } else {
                lines.push(line.to_owned());
            }
        }
        Self::parse(&lines.join("\n"), now_us)
    }

    pub(crate) fn parse(text: &str, now_us: Option<i64>) -> Self {
        let mut facts = Vec::new();
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let fact: FactLine = line.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
            let again: FactLine = fact.to_string().parse().unwrap();
            assert_eq!(again, fact, "the text form must survive a round trip");
            let at_us = T_US + fact.offset_us;
            facts.push(Seen {
                id: FactId {
                    host: fact.host,
                    boot: "b".into(),
                    seq: u64::try_from(facts.len() + 1).unwrap(),
                },
                at_us,
                tolerance_us: 1_000,
                boottime_us: u64::try_from(UPTIME_US + fact.offset_us).unwrap(),
                kind: fact.kind,
            });
        }
        let last_us = facts.iter().map(|fact| fact.at_us).max().unwrap_or(T_US);
        Self { facts, now_us: now_us.unwrap_or(last_us + AFTER_US) }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot::new(self.facts.clone(), self.now_us)
    }
}
