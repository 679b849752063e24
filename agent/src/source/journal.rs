//! What the journal says: systemd's own messages by MESSAGE_ID, crashes, and what app servers write about themselves.
//!
//! The journal gives the words, other sources the speed. It is read in a child process, which may die or hang: the
//! parent starts it anew at the place up to which it had everything, and says for how long it was blind.
//! See systemd.journal-fields(7).

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};
use tokio::time::{Instant, timeout};
use why502_proto::{Kind, v1};

use crate::clock::Moment;
use crate::observe::{Mark, Marks, Observed, Observer};
use crate::source::Roots;
use crate::source::gateway::journal_lines::{JournalLines, Line};

mod frame;
mod header;
mod kernel_line;
mod log_files;
mod message;
pub mod patterns;
mod place;
mod reader;
mod record;
mod words;

use frame::{Frame, Request};

/// The hidden verb of the agent that runs the reader.
pub const READER_VERB: &str = "journal-reader";

/// Name of the mark that holds the cursor.
const MARK: &str = "journal";

/// A reader that is silent for so long hangs.
const SILENCE_MAX: Duration = Duration::from_secs(10);
const _: () = assert!(SILENCE_MAX.as_secs() > 3 * reader::HEARTBEAT.as_secs());

/// First pause before a dead reader is started anew; doubled up to [`PAUSE_MAX`] while it dies again.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// So often in a row a reader may die soon, and without having come further, before its place is given up.
const DEATHS_MAX: u32 = 3;

/// A reader that lived longer than this did not die of the place where it began.
const SOON: Duration = Duration::from_secs(30);

/// The program that reads.
#[derive(Clone, Debug)]
pub struct Reader {
    /// Its path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl Reader {
    /// This very program, with the hidden verb.
    pub fn of_this_program(roots: &Roots) -> Self {
        // After an upgrade the file of the running program is gone; the kernel still has it.
        let program = std::env::current_exe().ok().filter(|path| path.exists());
        Self {
            program: program.unwrap_or_else(|| roots.proc.join("self/exe")),
            arguments: vec![READER_VERB.into()],
        }
    }
}

/// The child's side: reads until its parent is gone.
pub fn reader_main() -> ExitCode {
    reader::main()
}

/// Follows the journal until the agent shuts down. `lines` read what gateways write into it.
pub async fn run(roots: Roots, observer: Observer, marks: Marks, lines: JournalLines) {
    let reader = Reader::of_this_program(&roots);
    // Both end only when the agent does.
    tokio::join!(
        log_files::follow(&roots, &observer, &marks),
        run_with(reader, roots.clone(), observer.clone(), marks.clone(), lines),
    );
}

/// Like [`run`], with another program to read.
pub async fn run_with(
    reader: Reader,
    roots: Roots,
    observer: Observer,
    marks: Marks,
    lines: JournalLines,
) {
    let kernel = std::fs::File::open(roots.dev.join("kmsg")).is_err();
    let mut parent = Parent {
        observer,
        request: Request {
            root: roots.root.to_string_lossy().into_owned(),
            cursor: marks.get(MARK).cloned().unwrap_or_default(),
            kernel,
        },
        heard_at: Moment::now(),
        seeing: false,
        said: String::new(),
        lines,
        unmarked: None,
    };
    let mut pause = PAUSE_MIN;
    let mut deaths = 0;
    loop {
        let (cursor, begun) = (parent.request.cursor.clone(), Instant::now());
        let Err(ended) = parent.session(&reader).await else { return };
        let went_on = parent.seeing;
        // A reader that gave up by itself will find its place again once it can see.
        let killed = !matches!(&ended, Ended::Died(Some(status)) if status.code().is_some());
        if !parent.blinded(ended).await {
            return;
        }
        let same_place = parent.request.cursor == cursor && begun.elapsed() < SOON;
        deaths = if same_place { deaths + 1 } else { 0 };
        if deaths >= DEATHS_MAX && killed {
            // Something behind this place kills it. What is lost is told by the time it was blind.
            parent.request.cursor.clear();
            deaths = 0;
        }
        pause = if went_on { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        tokio::time::sleep(pause).await;
    }
}

/// How a reader ended.
enum Ended {
    /// It could not be started.
    Start(std::io::Error),
    /// It was silent and had to be killed.
    Hung,
    /// It died, or gave up.
    Died(Option<ExitStatus>),
}

struct Parent {
    observer: Observer,
    request: Request,
    /// The last sign of life: from here on we are blind if it dies.
    heard_at: Moment,
    /// The reader has told that it sees.
    seeing: bool,
    /// The reason that was told last.
    said: String,
    lines: JournalLines,
    /// Up to here all was read, and of the lines of gateways not all was told.
    unmarked: Option<String>,
}

impl Parent {
    /// One reader, from its start to its end. `Ok`: the agent shuts down.
    async fn session(&mut self, reader: &Reader) -> Result<(), Ended> {
        self.seeing = false;
        let mut child = Command::new(&reader.program)
            .args(&reader.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(Ended::Start)?;
        let ended = self.listen(&mut child).await;
        if let Err(Ended::Hung) = ended {
            // It is reaped here, so that none is left behind.
            let _ = child.kill().await;
        }
        match ended {
            Err(Ended::Died(_)) => Err(Ended::Died(child.wait().await.ok())),
            other => other,
        }
    }

    async fn listen(&mut self, child: &mut Child) -> Result<(), Ended> {
        let (Some(mut stdin), Some(mut stdout)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Ended::Died(None));
        };
        frame::send(&mut stdin, &self.request).await.map_err(|_| Ended::Died(None))?;
        loop {
            let frame = timeout(SILENCE_MAX, frame::receive::<Frame>(&mut stdout));
            tokio::pin!(frame);
            let frame = loop {
                let due = self.lines.due_us();
                tokio::select! {
                    frame = &mut frame => break frame,
                    () = Moment::reached(due.unwrap_or(0)), if due.is_some() => {
                        if !self.tell(Vec::new()).await {
                            return Ok(());
                        }
                    }
                }
            };
            let frame = frame.map_err(|_| Ended::Hung)?.map_err(|_| Ended::Died(None))?;
            self.heard_at = Moment::now();
            if !self.forward(frame).await {
                return Ok(());
            }
        }
    }

    /// Hands facts on. `false`: the agent shuts down.
    async fn forward(&mut self, frame: Frame) -> bool {
        if !frame.cursor.is_empty() && frame.cursor != self.request.cursor {
            self.request.cursor.clone_from(&frame.cursor);
            self.unmarked = Some(frame.cursor);
        }
        for line in frame.lines {
            let at = Moment { boottime_us: line.boottime_us, realtime_us: line.realtime_us };
            let (unit, program, tag, text) = (line.unit, line.program, line.tag, line.text);
            self.lines.read(&Line { unit, program, tag, text }, at);
        }
        let mut facts = Vec::new();
        for fact in frame.facts {
            match &fact.kind {
                Some(Kind::SourceSeeing(_)) => {
                    self.seeing = true;
                    self.said.clear();
                }
                Some(Kind::SourceBlinded(blinded)) => {
                    if self.said == blinded.reason {
                        continue;
                    }
                    self.said.clone_from(&blinded.reason);
                }
                _ => {}
            }
            let at = Moment { boottime_us: fact.boottime_us, realtime_us: fact.realtime_us };
            facts.extend(fact.kind.map(|kind| (at, kind)));
        }
        self.tell(facts).await
    }

    /// Tells `facts`, and what gateways wrote as far as it is due. The place travels with the last of them, once all
    /// that was read up to it is told. `false`: the agent shuts down.
    async fn tell(&mut self, mut facts: Vec<(Moment, Kind)>) -> bool {
        let now = Moment::now();
        if !facts.is_empty() {
            self.lines.urge(now);
        }
        facts.extend(self.lines.take(now));
        let mark = self.unmarked.take_if(|_| !self.lines.waits());
        let mark = mark.map(|position| Mark { name: MARK.into(), position });
        let last = facts.pop();
        for (at, kind) in facts {
            if !self.observe(at, Some(kind), None).await {
                return false;
            }
        }
        match (last, mark) {
            (Some((at, kind)), mark) => self.observe(at, Some(kind), mark).await,
            (None, Some(mark)) => self.observe(self.heard_at, None, Some(mark)).await,
            (None, None) => true,
        }
    }

    async fn observe(&self, at: Moment, kind: Option<Kind>, mark: Option<Mark>) -> bool {
        self.observer.observe_waiting(Observed { at, kind, mark }).await
    }

    /// Tells that the reader ended, unless it told the reason itself.
    async fn blinded(&mut self, ended: Ended) -> bool {
        let reason = match ended {
            Ended::Start(error) => format!("cannot start the journal reader: {error}"),
            Ended::Hung => "the journal reader hung and was killed".into(),
            Ended::Died(Some(status)) if status.code().is_some() && !self.said.is_empty() => {
                return true;
            }
            Ended::Died(Some(status)) => format!("the journal reader died: {status}"),
            Ended::Died(None) => "the journal reader died".into(),
        };
        if reason == self.said {
            return true;
        }
        self.said.clone_from(&reason);
        let blinded = v1::SourceBlinded {
            source: v1::Source::Journal.into(),
            scope: String::new(),
            reason,
            grant: "nothing: it is started again where it stopped".into(),
            since_us: Some(self.heard_at.boottime_us),
        };
        self.observe(Moment::now(), Some(Kind::SourceBlinded(blinded)), None).await
    }
}
