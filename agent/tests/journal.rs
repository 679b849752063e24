//! The journal source on real journal files, written by systemd-journal-remote, with a real reader process.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use tokio::task::LocalSet;
use tokio::time::timeout;
use why502_agent::clock::Moment;
use why502_agent::observe::{Marks, Observations, channel};
use why502_agent::source::Roots;
use why502_agent::source::gateway::journal_lines::JournalLines;
use why502_agent::source::journal::{Reader, run_with};
use why502_proto::{Kind, fields_text, kind_name};

/// Longer than the slowest of it on a busy machine; nothing waits so long when all is well.
const PATIENCE: Duration = Duration::from_secs(60);

/// A cursor of a journal that is no more, from this year: everything that is there comes after it.
const FOREIGN: &str = "s=00000000000000000000000000000001;i=1;b=00000000000000000000000000000002;\
    m=1;t=650000000000;x=1";

/// A host of one directory: its journal, and the pid of its reader.
struct Host {
    root: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let host = Self { root: tempfile::tempdir().unwrap() };
        fs::create_dir_all(host.journal().parent().unwrap()).unwrap();
        host
    }

    fn journal(&self) -> PathBuf {
        self.root.path().join("var/log/journal/0123456789abcdef0123456789abcdef/system.journal")
    }

    /// Appends a record: journald's fields of now, and these.
    fn append(&self, fields: &str) {
        append(&self.journal(), fields);
    }

    fn reader_pid(&self) -> rustix::process::Pid {
        let text = fs::read_to_string(self.root.path().join("pid")).unwrap();
        rustix::process::Pid::from_raw(text.trim().parse().unwrap()).unwrap()
    }

    /// Follows the journal while `test` runs.
    fn follow<F: Future<Output = ()>>(&self, cursor: &str, test: impl FnOnce(Seen) -> F) {
        let program = env!("CARGO_BIN_EXE_why502-agent");
        let pid = self.root.path().join("pid");
        let script = format!("echo $$ > {}; exec {program} journal-reader", pid.display());
        let reader =
            Reader { program: "/bin/sh".into(), arguments: vec!["-c".into(), script.into()] };
        let roots = Roots { root: self.root.path().to_owned(), ..Roots::default() };
        let mut marks = Marks::new();
        if !cursor.is_empty() {
            marks.insert("journal".into(), cursor.into());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let (observer, observations) = channel();
            let seen = Seen { observations, cursor: cursor.to_owned() };
            let lines = JournalLines::default();
            lines.known();
            tokio::select! {
                () = run_with(reader, roots, observer, marks, lines) => panic!("the source ended"),
                () = test(seen) => {}
            }
        });
    }
}

fn append(journal: &Path, fields: &str) {
    let now = Moment::now();
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().replace('-', "");
    let export = format!(
        "__REALTIME_TIMESTAMP={}\n__MONOTONIC_TIMESTAMP={}\n_BOOT_ID={}\n{}\n\n",
        now.realtime_us,
        now.boottime_us - why502_agent::clock::suspended_us(),
        boot.trim(),
        fields.replace("\n            ", "\n"),
    );
    let mut writer = Command::new("/lib/systemd/systemd-journal-remote")
        .arg("-o")
        .arg(journal)
        .arg("-")
        .stdin(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the package systemd-journal-remote is installed");
    writer.stdin.take().unwrap().write_all(export.as_bytes()).unwrap();
    assert!(writer.wait().unwrap().success());
}

struct Seen {
    observations: Observations,
    cursor: String,
}

impl Seen {
    /// The next fact, as text.
    async fn next(&mut self) -> String {
        loop {
            let seen = timeout(PATIENCE, self.observations.next()).await.unwrap().unwrap();
            if let Some(mark) = seen.mark {
                assert_eq!(mark.name, "journal");
                self.cursor = mark.position;
            }
            if let Some(kind) = seen.kind {
                return said(&kind);
            }
        }
    }

    async fn expect(&mut self, text: &str) {
        assert_eq!(self.next().await, text);
    }
}

fn said(kind: &Kind) -> String {
    let mut kind = kind.clone();
    match &mut kind {
        Kind::SourceBlinded(blinded) => {
            blinded.since_us = None;
            blinded.grant.clear();
        }
        Kind::AppServerEvent(event) => event.text.clear(),
        _ => {}
    }
    format!("{} {}", kind_name(&kind), fields_text(&kind))
}

const SEEING: &str = "source_seeing source=journal";

fn timed_out(pid: u32) -> String {
    format!("app_server_event server=gunicorn event=worker_timed_out unit=api.service pid={pid}")
}

fn worker_timeout(pid: u32) -> String {
    format!("_SYSTEMD_UNIT=api.service\n_PID=70\nMESSAGE=WORKER TIMEOUT (pid:{pid})")
}

#[test]
fn a_unit_dies_and_its_last_words_are_kept() {
    let host = Host::new();
    host.append("_SYSTEMD_UNIT=api.service\n_PID=70\nMESSAGE=cannot connect, password=hunter2");
    host.append(
        "_SYSTEMD_UNIT=init.scope\n_PID=1\nUNIT=api.service\n\
         MESSAGE_ID=98e322203f7a4ed290d09fe03c09fe15\nEXIT_CODE=exited\nEXIT_STATUS=3\n\
         COMMAND=ExecStart\nMESSAGE=api.service: Main process exited",
    );
    host.follow(FOREIGN, |mut seen| async move {
        let gap = "source_blinded source=journal \
            reason=\"records were removed before they were read\"";
        seen.expect(gap).await;
        let exit = "unit_process_exit unit=api.service code=exited status=3 command=ExecStart";
        seen.expect(exit).await;
        let words = "unit_last_words unit=api.service pid=70 \
            lines=\"cannot connect, password=***\"";
        seen.expect(words).await;
        seen.expect(SEEING).await;
    });
}

#[test]
fn it_goes_on_where_its_mark_says() {
    let host = Host::new();
    host.append(&worker_timeout(1));
    let cursor = std::cell::RefCell::new(String::new());
    host.follow("", |mut seen| {
        let (host, cursor) = (&host, &cursor);
        async move {
            // What was there before is not news.
            seen.expect(SEEING).await;
            host.append(&worker_timeout(2));
            seen.expect(&timed_out(2)).await;
            cursor.replace(seen.cursor);
        }
    });
    host.append(&worker_timeout(3));
    host.follow(&cursor.take(), |mut seen| async move {
        seen.expect(&timed_out(3)).await;
        seen.expect(SEEING).await;
    });
}

#[test]
fn a_killed_reader_loses_and_repeats_nothing() {
    let host = Host::new();
    host.append(&worker_timeout(1));
    host.follow("", |mut seen| {
        let host = &host;
        async move {
            seen.expect(SEEING).await;
            for round in 0..3 {
                host.append(&worker_timeout(10 + round));
                seen.expect(&timed_out(10 + round)).await;
                let kill = rustix::process::Signal::KILL;
                rustix::process::kill_process(host.reader_pid(), kill).unwrap();
                host.append(&worker_timeout(20 + round));
                let died = "source_blinded source=journal \
                    reason=\"the journal reader died: signal: 9 (SIGKILL)\"";
                seen.expect(died).await;
                seen.expect(&timed_out(20 + round)).await;
                seen.expect(SEEING).await;
            }
        }
    });
}

#[test]
fn a_journal_that_is_cut_off_ends_no_agent() {
    let host = Host::new();
    host.append(&worker_timeout(1));
    host.follow("", |mut seen| {
        let host = &host;
        async move {
            seen.expect(SEEING).await;
            let file = fs::File::options().write(true).open(host.journal()).unwrap();
            file.set_len(4096).unwrap();
            // journald moves the damaged file away and begins another one.
            let damaged = host.journal().with_file_name("system@damaged.journal~");
            fs::rename(host.journal(), damaged).unwrap();
            host.append(&worker_timeout(2));
            // It may have died of it, or not have looked: either way the new record comes.
            loop {
                let fact = seen.next().await;
                if fact == timed_out(2) {
                    break;
                }
                assert!(fact.starts_with("source_"), "{fact}");
            }
        }
    });
}

#[test]
fn without_a_journal_it_says_what_to_do() {
    let host = Host::new();
    host.follow("", |mut seen| async move {
        let blind = "source_blinded source=journal \
            reason=\"no journal in /run/log/journal or /var/log/journal\"";
        seen.expect(blind).await;
    });
}

#[test]
fn a_message_of_a_mebibyte_is_survived() {
    let host = Host::new();
    host.append(&worker_timeout(1));
    host.follow("", |mut seen| {
        let host = &host;
        async move {
            seen.expect(SEEING).await;
            let long = "x".repeat(1 << 20);
            host.append(&format!("_SYSTEMD_UNIT=api.service\n_PID=70\nMESSAGE={long}"));
            host.append(&worker_timeout(2));
            seen.expect(&timed_out(2)).await;
        }
    });
}
