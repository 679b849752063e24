//! `kill -9` at any moment: what the spool called durable is there once, and in order, when it is opened again.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use why502_agent::observe::Mark;
use why502_agent::spool::{Spool, SpoolConfig};
use why502_proto::v1::{AgentStopped, ClockJumped, Fact};
use why502_proto::{Kind, v1::fact};

/// Set for the child only: the directory of its spool.
const CHILD: &str = "WHY502_TEST_SPOOL";
/// Kills; each at another place of append, rotation, acknowledgement and removal.
const KILLS: u32 = 40;

fn open(dir: &Path) -> Spool {
    // Segments of 2 KiB, so that rotation and removal happen all the time.
    Spool::open(&SpoolConfig { dir: dir.to_owned(), bytes_max: 1 << 20 }, "boot").unwrap()
}

fn number(fact: &Fact) -> Option<i64> {
    match &fact.kind {
        Some(fact::Kind::ClockJumped(jump)) => Some(jump.by_us),
        _ => None,
    }
}

/// Everything that waits, behind `seq`.
fn waiting(spool: &mut Spool, mut seq: u64) -> Vec<Fact> {
    let mut all = Vec::new();
    loop {
        let batch = spool.read_after("boot", seq, 512, 1 << 20);
        let Some(last) = batch.last() else { return all };
        seq = last.seq;
        all.extend(batch);
    }
}

/// To the parent, at once.
fn say(line: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "{line}").unwrap();
    out.flush().unwrap();
}

/// The child: appends, says what is durable, acknowledges a part, until it is killed.
fn append_for_ever(dir: &Path) {
    let mut spool = open(dir);
    let begin = spool.marks().get("numbers").map_or(0, |last| last.parse().unwrap());
    let filler = "x".repeat(3000);
    for next in begin + 1.. {
        let of = |kind| Some(Fact { kind: Some(kind), ..Fact::default() });
        let mark = Mark { name: "numbers".into(), position: format!("{next}") };
        let mut batch = vec![
            (of(Kind::AgentStopped(AgentStopped { reason: filler.clone() })), None),
            (of(Kind::ClockJumped(ClockJumped { by_us: next })), Some(mark)),
        ];
        assert!(spool.append(&mut batch));
        say(&format!("durable {next}"));
        if next % 7 == 0 {
            let seq = batch[1].0.as_ref().unwrap().seq;
            say(&format!("acked {}", next - 3));
            spool.forget("boot", seq - 6);
            spool.save();
        }
    }
}

#[test]
fn what_was_durable_survives_a_kill_at_any_moment() {
    if let Some(dir) = std::env::var_os(CHILD) {
        append_for_ever(Path::new(&dir));
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut durable, mut acked) = (0, 0);
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "what_was_durable_survives_a_kill_at_any_moment", "--nocapture"])
            .env(CHILD, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut left = 3 + kill * 17 % 90;
        for line in lines.map_while(Result::ok) {
            if let Some(number) = line.strip_prefix("durable ") {
                durable = number.parse().unwrap();
            } else if let Some(number) = line.strip_prefix("acked ") {
                acked = number.parse().unwrap();
            }
            // What is said after the kill was durable too, so the rest of the pipe is read to its end.
            left = left.saturating_sub(1);
            if left == 0 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        let mut spool = open(dir.path());
        let facts = waiting(&mut spool, 0);
        assert!(facts.is_sorted_by(|a, b| a.seq < b.seq), "kill {kill}: a place is named once");
        let numbers: Vec<i64> = facts.iter().filter_map(number).collect();
        let first = numbers.first().copied().unwrap_or(durable + 1);
        let last = numbers.last().copied().unwrap_or(durable);
        assert!(first <= acked + 1, "kill {kill}: {first} is the first, {acked} was acknowledged");
        assert!(last >= durable, "kill {kill}: {last} is the last, {durable} was durable");
        assert_eq!(numbers, (first..=last).collect::<Vec<_>>(), "kill {kill}: each is there once");
        assert_eq!(spool.marks()["numbers"], last.to_string(), "the mark is where the facts end");
        durable = last;
    }
    let files = fs::read_dir(dir.path()).unwrap().count();
    assert!(
        durable > 500 && files < 10,
        "{durable} facts, {files} files: what is stored was removed"
    );
}
