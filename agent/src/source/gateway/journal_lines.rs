//! Lines that gateways give to the journal: by syslog(3), or on their standard output below systemd.
//!
//! The journal source reads them, in the order of its cursor; the gateway source says who reads which. Both run on one
//! thread. A line that comes before the gateways of this host are known waits for them.

use std::cell::RefCell;
use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;

use tokio::sync::Notify;
use why502_gateway::effective::Target;
use why502_gateway::kind::KINDS;
use why502_gateway::lines::{Lines, What};
use why502_gateway::nginx;
use why502_proto::{Kind, v1};

use super::gathered::Gathered;
use crate::clock::Moment;

/// Lines that may wait until the gateways are known: seconds of a loaded one. At the bound the oldest go.
const WAITING_MAX: usize = 4096;

/// Crashed workers that may wait for the next look at the workers, every 2 s.
const CRASHED_MAX: usize = 1024;

/// A line in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Unit of the process that wrote it.
    pub unit: String,
    /// Its name: _COMM.
    pub program: String,
    /// SYSLOG_IDENTIFIER.
    pub tag: String,
    /// MESSAGE.
    pub text: String,
}

/// Who reads lines of one gateway.
#[derive(Debug)]
pub struct Reader {
    /// Whose lines these are.
    pub instance: String,
    /// The unit that it runs as; "": none, or it does not run.
    pub unit: String,
    /// Names that its processes have.
    pub programs: &'static [&'static str],
    /// What the configuration says of the lines.
    pub target: Target,
    /// What reads them.
    pub lines: Box<dyn Lines>,
}

/// Whether a process of this name, or with this tag, may be a gateway.
pub fn may_be_gateway(program: &str, tag: &str) -> bool {
    let is = |name: &str| name == program || name == tag;
    is(nginx::NAME) || KINDS.iter().flat_map(|kind| kind.programs).any(|name| is(name))
}

impl Reader {
    fn takes(&self, line: &Line) -> bool {
        let own = self.programs.contains(&line.program.as_str());
        // Two instances of one program are told apart by their units.
        let elsewhere = !self.unit.is_empty() && self.unit != line.unit;
        match &self.target {
            Target::Syslog(tag) if !tag.is_empty() => *tag == line.tag && !(own && elsewhere),
            Target::Syslog(_) | Target::Stdio => own && !elsewhere,
            Target::File(_) | Target::Elsewhere { .. } => false,
        }
    }
}

/// All of them. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct JournalLines(Rc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    readers: RefCell<Vec<Reader>>,
    gathered: RefCell<Gathered>,
    /// What came before the gateways were known.
    waiting: RefCell<Waiting>,
    reloaded: RefCell<BTreeSet<String>>,
    crashed: RefCell<BTreeSet<(String, u32)>>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    lines: VecDeque<(Moment, Line)>,
    /// So many went at the bound.
    lost: u64,
    known: bool,
}

impl JournalLines {
    /// From now on exactly `readers` read lines of `instance`.
    pub fn set(&self, instance: &str, readers: Vec<Reader>) {
        let mut all = self.0.readers.borrow_mut();
        all.retain(|reader| reader.instance != instance);
        all.extend(readers);
    }

    /// All gateways that run have been looked at.
    pub fn known(&self) {
        let (lines, count) = {
            let mut waiting = self.0.waiting.borrow_mut();
            waiting.known = true;
            (std::mem::take(&mut waiting.lines), std::mem::take(&mut waiting.lost))
        };
        if count > 0 {
            let dropped = v1::JournalDropped { unit: String::new(), count };
            let told = (Moment::now(), Kind::JournalDropped(dropped));
            self.0.gathered.borrow_mut().others.push(told);
        }
        lines.into_iter().for_each(|(at, line)| self.read(&line, at));
    }

    /// Takes a line that was written at `at`.
    pub fn read(&self, line: &Line, at: Moment) {
        let mut waiting = self.0.waiting.borrow_mut();
        if !waiting.known {
            if waiting.lines.len() >= WAITING_MAX {
                waiting.lines.pop_front();
                waiting.lost += 1;
            }
            waiting.lines.push_back((at, line.clone()));
            return;
        }
        let mut told = Vec::new();
        for reader in self.0.readers.borrow_mut().iter_mut().filter(|reader| reader.takes(line)) {
            reader.lines.read(&line.text, &mut told);
            // The journal gives line by line: nobody knows whether another one comes.
            reader.lines.pause(&mut told);
            // The journal knows better than a stamp in seconds; but Envoy keeps lines for up to 10 s.
            for told in told.drain(..) {
                if let What::Event(event) = &told.what {
                    let mut crashed = self.0.crashed.borrow_mut();
                    if event.event() == v1::AppEvent::WorkerCrashed && crashed.len() < CRASHED_MAX {
                        crashed.insert((reader.instance.clone(), event.pid));
                    }
                }
                if self.0.gathered.borrow_mut().add(told, at) {
                    self.0.reloaded.borrow_mut().insert(reader.instance.clone());
                    self.0.changed.notify_one();
                }
            }
        }
    }

    /// Workers that crashed, by instance, since this was asked last.
    pub fn crashed(&self) -> BTreeSet<(String, u32)> {
        std::mem::take(&mut self.0.crashed.borrow_mut())
    }

    /// Instances that said they took their configuration anew; waits for one.
    pub async fn reloaded(&self) -> BTreeSet<String> {
        self.0.changed.notified().await;
        std::mem::take(&mut self.0.reloaded.borrow_mut())
    }

    /// When something that waits has to be told, boot time. `None`: nothing waits.
    pub fn due_us(&self) -> Option<u64> {
        self.0.gathered.borrow().due_us()
    }

    /// Whether something was read and not told.
    pub fn waits(&self) -> bool {
        self.due_us().is_some() || !self.0.waiting.borrow().lines.is_empty()
    }

    /// Something else is told now, so all that waits is told with it.
    pub fn urge(&self, now: Moment) {
        self.0.gathered.borrow_mut().urge(now);
    }

    /// Everything that waits, once one of it is due.
    pub fn take(&self, now: Moment) -> Vec<(Moment, Kind)> {
        self.0.gathered.borrow_mut().take(now)
    }
}
