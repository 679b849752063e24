//! Logs followed across everything that happens to logs, on real files: each line once, whatever happened when.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use why502_agent::source::gateway::tail::Tail;

struct Lab {
    dir: tempfile::TempDir,
    writer: File,
    tail: Tail,
    mark: Option<String>,
    written: usize,
    read: Vec<String>,
    now: Instant,
}

impl Lab {
    fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("agent-nginx-").tempdir().unwrap();
        let path = dir.path().join("error.log");
        fs::write(&path, "2026/11/24 13:46:08 line from before\n").unwrap();
        let mut tail = Tail::new(path.clone(), None);
        tail.look(Instant::now()).unwrap();
        let mark = Some(tail.position());
        Self {
            writer: append(&path),
            dir,
            tail,
            mark,
            written: 0,
            read: Vec::new(),
            now: Instant::now(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn write(&mut self, count: usize) {
        for _ in 0..count {
            writeln!(self.writer, "2026/11/24 13:46:09 line {}", self.written).unwrap();
            self.written += 1;
        }
    }

    /// Reads all there is, and keeps the place.
    fn read(&mut self) {
        self.tail.look(self.now).unwrap();
        while self.tail.read(self.now, &mut self.read).unwrap() {}
        self.mark = Some(self.tail.position());
    }

    /// The program dies and is started again: what was read after the last mark is read again.
    fn kill(&mut self) {
        let mut read = Vec::new();
        self.tail.look(self.now).unwrap();
        let _ = self.tail.read(self.now, &mut read);
        self.tail = Tail::new(self.path("error.log"), self.mark.clone());
    }

    /// logrotate with `create`: the writer goes on in the old file until it is told.
    fn rename(&mut self) {
        self.shift();
        fs::rename(self.path("error.log"), self.path("error.log.1")).unwrap();
    }

    fn shift(&mut self) {
        if self.path("error.log.1").exists() {
            fs::rename(self.path("error.log.1"), self.path("error.log.2")).unwrap();
        }
    }

    fn reopen(&mut self) {
        self.writer = append(&self.path("error.log"));
    }

    /// logrotate with `copytruncate`.
    fn copy_and_truncate(&mut self) {
        self.shift();
        fs::copy(self.path("error.log"), self.path("error.log.1")).unwrap();
        self.writer.set_len(0).unwrap();
    }

    #[track_caller]
    fn check(&mut self) {
        self.read();
        let expected: Vec<_> =
            (0..self.written).map(|n| format!("2026/11/24 13:46:09 line {n}")).collect();
        assert_eq!(self.read, expected);
    }
}

fn append(path: &Path) -> File {
    OpenOptions::new().create(true).append(true).open(path).unwrap()
}

#[test]
fn begins_at_the_end_and_reads_whole_lines() {
    let mut lab = Lab::new();
    lab.write(3);
    lab.read();
    lab.writer.write_all(b"2026/11/24 13:46:09 line").unwrap();
    lab.read();
    lab.kill();
    lab.writer.write_all(b" 3\n").unwrap();
    lab.written = 4;
    lab.check();
}

#[test]
fn renamed_and_written_on_before_it_is_reopened() {
    let mut lab = Lab::new();
    lab.write(2);
    lab.rename();
    lab.write(2);
    lab.read();
    File::create(lab.path("error.log")).unwrap();
    lab.read();
    lab.write(2);
    lab.reopen();
    lab.write(2);
    lab.check();
}

#[test]
fn rotated_twice_while_nobody_looked() {
    let mut lab = Lab::new();
    lab.write(2);
    lab.read();
    lab.write(1);
    for _ in 0..2 {
        lab.rename();
        lab.reopen();
        lab.write(2);
        // Rotations are hours apart; the order of files is that of their times.
        let second_ago = std::time::SystemTime::now() - Duration::from_secs(10);
        append(&lab.path("error.log.1")).set_modified(second_ago).unwrap();
        if lab.path("error.log.2").exists() {
            append(&lab.path("error.log.2"))
                .set_modified(second_ago - Duration::from_secs(10))
                .unwrap();
        }
    }
    lab.kill();
    lab.tail = Tail::new(lab.path("error.log"), lab.mark.clone());
    lab.check();
}

#[test]
fn copied_and_truncated_before_it_was_read() {
    let mut lab = Lab::new();
    lab.write(3);
    lab.read();
    lab.write(2);
    lab.copy_and_truncate();
    lab.write(1);
    lab.check();
}

#[test]
fn truncated_and_grown_beyond_the_old_end() {
    let mut lab = Lab::new();
    lab.write(1);
    lab.read();
    lab.writer.set_len(0).unwrap();
    let first = "2026/11/24 13:47:00 other beginning\n";
    lab.writer.write_all(first.as_bytes()).unwrap();
    lab.write(9);
    lab.read();
    assert_eq!(lab.read[1], first.trim_end());
    lab.read.remove(1);
    lab.check();
}

#[test]
fn removed_and_made_again() {
    let mut lab = Lab::new();
    lab.write(2);
    lab.read();
    fs::remove_file(lab.path("error.log")).unwrap();
    lab.write(1);
    lab.read();
    lab.reopen();
    lab.write(2);
    lab.check();
}

#[test]
fn a_link_that_is_pointed_elsewhere() {
    let mut lab = Lab::new();
    fs::rename(lab.path("error.log"), lab.path("monday.log")).unwrap();
    std::os::unix::fs::symlink("monday.log", lab.path("error.log")).unwrap();
    lab.write(2);
    lab.read();
    lab.write(1);
    std::os::unix::fs::symlink("tuesday.log", lab.path("next")).unwrap();
    fs::write(lab.path("tuesday.log"), "").unwrap();
    fs::rename(lab.path("next"), lab.path("error.log")).unwrap();
    lab.reopen();
    lab.write(2);
    lab.check();
}

#[test]
fn compressed_away_while_nobody_looked_is_told() {
    let mut lab = Lab::new();
    lab.write(2);
    lab.read();
    fs::remove_file(lab.path("error.log")).unwrap();
    lab.reopen();
    lab.write(1);
    lab.tail = Tail::new(lab.path("error.log"), lab.mark.clone());
    lab.check_lost();
}

impl Lab {
    fn check_lost(&mut self) {
        self.read();
        assert!(self.tail.lost);
        assert_eq!(self.read.last().unwrap(), "2026/11/24 13:46:09 line 2");
    }
}

#[test]
fn a_log_that_is_not_there_yet_is_read_from_its_beginning() {
    let dir = tempfile::Builder::new().prefix("agent-nginx-").tempdir().unwrap();
    let path = dir.path().join("error.log");
    let mut tail = Tail::new(path.clone(), None);
    let now = Instant::now();
    tail.look(now).unwrap();
    fs::write(&path, "one\n\u{ff}\n").unwrap();
    tail.look(now).unwrap();
    let mut lines = Vec::new();
    while tail.read(now, &mut lines).unwrap() {}
    assert_eq!(lines, ["one", "\u{ff}"]);
}

#[test]
fn a_line_without_end_is_cut_and_garbage_is_replaced() {
    let mut lab = Lab::new();
    let mut long = vec![b'x'; 1 << 20];
    long.extend(b"\n\xff\xfe bytes\n");
    lab.writer.write_all(&long).unwrap();
    lab.read();
    assert_eq!(lab.read.len(), 2);
    assert_eq!(lab.read[0].len(), 64 << 10);
    assert_eq!(lab.read[1], "\u{fffd}\u{fffd} bytes");
    assert_eq!(lab.tail.cut, 1);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Write(usize),
    Read,
    Kill,
    Rename,
    CopyTruncate,
    Truncate,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1..9_usize).prop_map(Step::Write),
        4 => Just(Step::Read),
        2 => Just(Step::Kill),
        1 => Just(Step::Rename),
        1 => Just(Step::CopyTruncate),
        1 => Just(Step::Truncate),
    ];
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// What nobody could save is left out: rotations come only after all was read, except that a copy or a renamed
    /// file still has it.
    #[test]
    fn any_order_of_events(steps in steps()) {
        let mut lab = Lab::new();
        let mut rotated = 0;
        for step in steps {
            match step {
                Step::Write(count) => lab.write(count),
                Step::Read => lab.read(),
                Step::Kill => lab.kill(),
                Step::Rename if rotated == 0 => {
                    lab.rename();
                    lab.reopen();
                    rotated = 1;
                }
                Step::CopyTruncate if rotated == 0 => {
                    // Of a file that was empty when it was last read nobody can tell that it was copied away.
                    lab.write(1);
                    lab.read();
                    lab.write(1);
                    lab.copy_and_truncate();
                    rotated = 1;
                }
                Step::Truncate if rotated == 0 => {
                    lab.read();
                    lab.writer.set_len(0).unwrap();
                    // One line at least, or nobody could tell an empty file from one that never had any.
                    lab.write(1);
                    rotated = 1;
                }
                _ => {
                    lab.read();
                    rotated = 0;
                }
            }
        }
        lab.check();
    }
}
