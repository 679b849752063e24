//! Replays what happened under `scenarios/` and compares what is said about it.
//!
//! `facts.txt` has one fact a line in the text form; `T` is a moment of the story's choice. `include NAME` stands for
//! the lines of `scenarios/NAME.txt`, `now T+9.000` sets the moment of the snapshot (two seconds after the last fact
//! where it is not set). To accept new output: `UPDATE_EXPECT=1 cargo test -p why502-explain --test replay`, then read
//! the diff.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod replay {
    pub(crate) mod report;
    pub(crate) mod story;
}

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use expect_test::expect_file;
use replay::{report::report, story::Story};
use why502_explain::{catalog, explain, questions};

fn scenarios() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut found = Vec::new();
    for family in std::fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()) {
        if family.is_dir() {
            found.extend(std::fs::read_dir(&family).unwrap().map(|entry| entry.unwrap().path()));
        }
    }
    found.sort();
    found
}

#[test]
fn every_story_is_explained_as_expected() {
    let all = scenarios();
    assert!(!all.is_empty());
    let mut wrong = Vec::new();
    for dir in all {
        let story = Story::read(&dir);
        let told = report(&story);
        let compared = std::panic::catch_unwind(|| {
            expect_file![dir.join("expected.txt")].assert_eq(&told);
        });
        if compared.is_err() {
            wrong.push(dir);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_cause_is_the_root_of_a_story_and_not_of_another() {
    let mut roots = BTreeSet::new();
    let mut stories = 0;
    for dir in scenarios() {
        let snapshot = Story::read(&dir).snapshot();
        stories += 1;
        for question in questions(&snapshot) {
            roots.extend(explain(&snapshot, &question).map(|answer| answer.root_cause));
        }
    }
    assert!(stories > 1);
    // Causes that no source can prove yet: they are named as undecided, never as the answer.
    let never = ["keepalive.race"];
    let missing: Vec<&str> = catalog()
        .map(|rule| rule.id)
        .filter(|id| !never.contains(id) && !roots.contains(*id))
        .collect();
    assert!(missing.is_empty(), "no story has these as its root: {missing:?}");
    let wrong: Vec<&&str> = never.iter().filter(|id| roots.contains(**id)).collect();
    assert!(wrong.is_empty(), "guessed: {wrong:?}");
}
