//! The process that reads the journal: libsystemd maps the files of another program into memory, and a file that is cut
//! off under it ends the process with SIGBUS. Then only this process dies, and its parent starts another one where
//! it stopped.

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::process::{Signal, set_parent_process_death_signal};
use systemd::id128::Id128;
use systemd::{Journal, JournalWaitResult};
use why502_proto::{Kind, v1};

use super::frame::{self, Frame, GatewayLine, Request};
use super::header::{self, Blind, Headers};
use super::kernel_line::KernelLines;
use super::place::{blinded, fact, open, seek};
use super::record::{FIELDS_MAX, Record, text};
use super::words::LastWords;
use super::{kernel_line, message, patterns};
use crate::clock::{self, Moment};
use crate::source::gateway::journal_lines::may_be_gateway;

/// How often the headers of the active files are looked at while records come: a reader that is 25 ms late on average.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The same after a silence of [`ACTIVE_FOR`]: being woken costs more than looking, and an idle host shall not feel us.
const LOOK_IDLE: Duration = Duration::from_millis(200);
const ACTIVE_FOR: Duration = Duration::from_secs(5);

/// How often libsystemd is asked what inotify told it.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// For so long after a file was put away it is asked at each look.
const ATTENTIVE_FOR: Duration = Duration::from_secs(1);

/// How often the parent hears that we are alive.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(3);

/// How often the parent learns how far we are while there is nothing to tell.
const POSITION_EVERY: Duration = Duration::from_secs(5);

/// A record that its sender dated earlier than this before journald took it has a clock of its own.
const DELAY_MAX_US: u64 = 60_000_000;

/// So many records that cannot be read one after the other: the file is damaged, begin anew.
const DAMAGED_MAX: u32 = 1000;

/// So often the header changed and nothing could be read: libsystemd has dropped the file.
const BARREN_MAX: u32 = 40;

/// Reads until its parent is gone.
pub(super) fn main() -> ExitCode {
    // Whoever started us is the only one who wants to know.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    let mut out = io::stdout().lock();
    let request: Request = match frame::read(&mut io::stdin().lock()) {
        Ok(request) => request,
        Err(_) => return ExitCode::from(64),
    };
    match read(&request, &mut out) {
        Ok(never) => match never {},
        Err(Stop::ParentGone) => ExitCode::SUCCESS,
        Err(Stop::Blind(blind)) => {
            let fact = blinded(blind, None);
            let _ = frame::write(&mut out, &Frame { facts: vec![fact], ..Frame::default() });
            ExitCode::from(69)
        }
    }
}

/// Why the reader ends.
enum Stop {
    ParentGone,
    Blind(Blind),
}

impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Self {
        Self::ParentGone
    }
}

impl From<systemd::Error> for Stop {
    fn from(error: systemd::Error) -> Self {
        Self::Blind(Blind {
            reason: format!("cannot read the journal: {error}"),
            grant: "look at it with journalctl --verify".into(),
        })
    }
}

fn read(request: &Request, out: &mut impl Write) -> Result<std::convert::Infallible, Stop> {
    let root = Path::new(&request.root);
    header::sight(root).map_err(Stop::Blind)?;
    let headers = Headers::open(root);
    let mut journal = open(&request.root)?;
    let gap = seek(&mut journal, &request.cursor)?;
    let mut reader = Reader {
        journal,
        out,
        boot: Id128::from_boot()?,
        kernel: request.kernel && kernel_line::are_ours(root),
        kernel_lines: KernelLines::default(),
        words: LastWords::default(),
        lines: Vec::new(),
        unreadable: 0,
        moved: gap.is_some(),
        wrote_at: Instant::now(),
        position_at: Instant::now(),
    };
    if let Some(fact) = gap {
        reader.write(vec![fact])?;
    }
    reader.drain()?;
    reader.seeing()?;
    reader.follow(root, headers)
}

/// So many lines of gateways at once: 64 times `VALUE_MAX` stays below the longest frame.
const LINES_MAX: usize = 64;

/// So many records at once, then the parent hears that we are alive.
const DRAIN_MAX: usize = 4096;

struct Reader<'a, W> {
    journal: Journal,
    out: &'a mut W,
    boot: Id128,
    /// Read the kernel's lines too.
    kernel: bool,
    kernel_lines: KernelLines,
    words: LastWords,
    /// Lines of gateways that the parent does not have yet.
    lines: Vec<GatewayLine>,
    /// Records that could not be read since it was last told.
    unreadable: u32,
    /// The position moved since the parent last learned it.
    moved: bool,
    wrote_at: Instant,
    position_at: Instant,
}

impl<W: Write> Reader<'_, W> {
    /// Waits for more and reads it, for ever.
    fn follow(
        &mut self,
        root: &Path,
        mut headers: Headers,
    ) -> Result<std::convert::Infallible, Stop> {
        let begun = Instant::now();
        let (mut barren, mut grown_at, mut asked_at, mut turned_at) = (0, begun, begun, None);
        loop {
            let idle = grown_at.elapsed() > ACTIVE_FOR;
            std::thread::sleep(if idle { LOOK_IDLE } else { LOOK_EVERY });
            let look = headers.look();
            if look.turned {
                turned_at = Some(Instant::now());
            }
            let mut told = false;
            let attentive = turned_at.is_some_and(|at: Instant| at.elapsed() < ATTENTIVE_FOR);
            if attentive || asked_at.elapsed() >= ASK_EVERY {
                asked_at = Instant::now();
                match self.journal.wait(Some(Duration::ZERO))? {
                    JournalWaitResult::Nop => {}
                    JournalWaitResult::Append => told = true,
                    JournalWaitResult::Invalidate => {
                        told = true;
                        headers = Headers::open(root);
                    }
                }
            }
            if look.grown || told {
                grown_at = Instant::now();
                let count = self.drain()?;
                barren = if count == 0 && look.grown { barren + 1 } else { 0 };
                if barren > BARREN_MAX {
                    return Err(Stop::Blind(Blind {
                        reason: "the journal grows and its records cannot be read".into(),
                        grant: "look at it with journalctl --verify".into(),
                    }));
                }
            }
            self.heartbeat()?;
        }
    }

    /// Reads all that is there; gives back how many records. The parent hears of us on the way.
    fn drain(&mut self) -> Result<usize, Stop> {
        let mut count = 0;
        loop {
            let read = self.drain_some()?;
            count += read;
            if read < DRAIN_MAX {
                return Ok(count);
            }
            self.heartbeat()?;
        }
    }

    /// Reads what is there, at most [`DRAIN_MAX`] records; gives back how many.
    fn drain_some(&mut self) -> Result<usize, Stop> {
        let mut count = 0;
        let mut failed = 0;
        while count < DRAIN_MAX {
            match self.journal.next() {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) => {
                    self.unreadable += 1;
                    failed += 1;
                    if failed > DAMAGED_MAX {
                        return Err(error.into());
                    }
                    continue;
                }
            }
            count += 1;
            self.moved = true;
            match self.gateway_line().and_then(|()| self.facts()) {
                Ok(facts) if facts.is_empty() && self.lines.len() < LINES_MAX => failed = 0,
                Ok(facts) => {
                    failed = 0;
                    self.write(facts)?;
                }
                Err(_) => {
                    self.unreadable += 1;
                    failed += 1;
                }
            }
        }
        let mut facts: Vec<v1::Fact> = self
            .words
            .take_due()
            .into_iter()
            .map(|(at_us, kind)| fact(Moment::now().at_boottime(at_us), kind))
            .collect();
        if self.unreadable > 0 {
            let count = u64::from(std::mem::take(&mut self.unreadable));
            let dropped = v1::JournalDropped { unit: String::new(), count };
            facts.push(fact(Moment::now(), Kind::JournalDropped(dropped)));
        }
        if !facts.is_empty() || !self.lines.is_empty() {
            self.write(facts)?;
        }
        Ok(count)
    }

    /// Keeps the record at hand if a gateway may have written it.
    fn gateway_line(&mut self) -> systemd::Result<()> {
        let program = self.data("_COMM")?.unwrap_or_default();
        let tag = self.data("SYSLOG_IDENTIFIER")?.unwrap_or_default();
        if !may_be_gateway(&program, &tag) {
            return Ok(());
        }
        let (Some(at), Some(text)) = (self.moment()?, self.data("MESSAGE")?) else {
            return Ok(());
        };
        let Moment { boottime_us, realtime_us } = self.sent(at)?;
        let unit = self.data("_SYSTEMD_UNIT")?.unwrap_or_default();
        self.lines.push(GatewayLine { boottime_us, realtime_us, unit, program, tag, text });
        Ok(())
    }

    /// Facts in the record at hand.
    fn facts(&mut self) -> systemd::Result<Vec<v1::Fact>> {
        let Some(unit) = self.data("_SYSTEMD_UNIT")? else {
            return self.kernel_facts();
        };
        let systemds = unit == "init.scope"
            || unit == "systemd-oomd.service"
            || unit == "systemd-journald.service"
            || unit.starts_with("systemd-coredump@");
        if !systemds && !unit.ends_with(".service") {
            return Ok(Vec::new());
        }
        let Some(at) = self.moment()? else { return Ok(Vec::new()) };
        if systemds {
            let record = self.record()?;
            return self.systemd_facts(at, &record);
        }
        let Some(line) = self.data("MESSAGE")? else { return Ok(Vec::new()) };
        // Written in the name of the unit by the process that was to become its program.
        if line.contains(": Failed at step ") || line.contains("Failed to locate executable") {
            let record = self.record()?;
            return self.systemd_facts(at, &record);
        }
        let pid = self.data("_PID")?.and_then(|pid| pid.parse().ok()).unwrap_or_default();
        let before = self.words.heard(&unit, pid, &line, at.boottime_us);
        let mut facts: Vec<v1::Fact> =
            before.into_iter().map(|(at_us, kind)| fact(at.at_boottime(at_us), kind)).collect();
        let Some(mut event) = patterns::match_line(&line) else { return Ok(facts) };
        event.unit = unit;
        if event.pid == 0 {
            event.pid = pid;
        }
        let at = self.sent(at)?;
        facts.push(fact(at, Kind::AppServerEvent(event)));
        Ok(facts)
    }

    fn systemd_facts(&mut self, at: Moment, record: &Record) -> systemd::Result<Vec<v1::Fact>> {
        let kinds = message::facts(record);
        if kinds.is_empty() {
            return Ok(Vec::new());
        }
        let at = self.sent(at)?;
        for kind in &kinds {
            match kind {
                Kind::UnitProcessExit(exit) if exit.code != "exited" || exit.status != 0 => {
                    self.words.died(&exit.unit, at.boottime_us);
                }
                Kind::UnitStartFailed(start) => self.words.not_started(&start.unit, at.boottime_us),
                _ => {}
            }
        }
        Ok(kinds.into_iter().map(|kind| fact(at, kind)).collect())
    }

    fn kernel_facts(&mut self) -> systemd::Result<Vec<v1::Fact>> {
        if !self.kernel || self.data("_TRANSPORT")?.as_deref() != Some("kernel") {
            return Ok(Vec::new());
        }
        let (Some(at), Some(line)) = (self.moment()?, self.data("MESSAGE")?) else {
            return Ok(Vec::new());
        };
        let Some(kind) = self.kernel_lines.fact(&line) else { return Ok(Vec::new()) };
        let at = self.sent(at)?;
        Ok(vec![fact(at, kind)])
    }

    /// One field of the record at hand.
    fn data(&mut self, name: &str) -> systemd::Result<Option<String>> {
        Ok(self.journal.get_data(name)?.and_then(|field| field.value().map(text)))
    }

    /// All fields of the record at hand.
    fn record(&mut self) -> systemd::Result<Record> {
        let mut record = Record::default();
        self.journal.restart_data();
        for _ in 0..FIELDS_MAX {
            let Some(field) = self.journal.enumerate_data()? else { break };
            if let (Ok(name), Some(value)) = (std::str::from_utf8(field.name()), field.value()) {
                record.add(name, value);
            }
        }
        Ok(record)
    }

    /// When journald took the record in. `None`: in another boot than this one, whose facts have another sequence.
    fn moment(&self) -> systemd::Result<Option<Moment>> {
        let (monotonic_us, boot) = self.journal.monotonic_timestamp()?;
        let at = Moment::now().at_boottime(monotonic_us + clock::suspended_us());
        Ok((boot == self.boot).then_some(at))
    }

    /// When its sender wrote the record, where it says so.
    fn sent(&mut self, taken: Moment) -> systemd::Result<Moment> {
        let taken_us = self.journal.timestamp_usec()?;
        let sent_us = self.data("_SOURCE_REALTIME_TIMESTAMP")?.and_then(|us| us.parse().ok());
        let delay = sent_us.and_then(|sent_us: u64| taken_us.checked_sub(sent_us));
        let delay = delay.filter(|delay| *delay < DELAY_MAX_US).unwrap_or(0);
        Ok(taken.at_boottime(taken.boottime_us.saturating_sub(delay)))
    }

    fn seeing(&mut self) -> Result<(), Stop> {
        let seeing = v1::SourceSeeing { source: v1::Source::Journal.into(), scope: String::new() };
        self.write(vec![fact(Moment::now(), Kind::SourceSeeing(seeing))])
    }

    /// Tells the parent facts, and that everything up to here was read.
    fn write(&mut self, facts: Vec<v1::Fact>) -> Result<(), Stop> {
        // At the head of an empty journal there is no record, and no cursor.
        let cursor = self.journal.cursor().unwrap_or_default();
        let lines = std::mem::take(&mut self.lines);
        frame::write(self.out, &Frame { facts, cursor, lines })?;
        self.moved = false;
        self.wrote_at = Instant::now();
        self.position_at = self.wrote_at;
        Ok(())
    }

    fn heartbeat(&mut self) -> Result<(), Stop> {
        if self.moved && self.position_at.elapsed() >= POSITION_EVERY {
            return self.write(Vec::new());
        }
        if self.wrote_at.elapsed() >= HEARTBEAT {
            frame::write(self.out, &Frame::default())?;
            self.wrote_at = Instant::now();
        }
        Ok(())
    }
}
