//! The one way from a source to the spool: a bounded queue.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;
use why502_proto::{Kind, v1};

use crate::clock::Moment;
pub use notices::{Noticed, Notices};

mod notices;

/// How many observations may wait for the spool: a second of a fork storm, some 4 MiB at 250 B each.
const OBSERVED_MAX: usize = 16_384;

/// What a source saw, and how far it has read.
#[derive(Clone, Debug, PartialEq)]
pub struct Observed {
    /// When it happened, as near as the source can tell.
    pub at: Moment,
    /// What. `None`: nothing worth a fact, only the mark moves on.
    pub kind: Option<Kind>,
    /// Where the source begins again after a crash once this is durable. `None`: the mark stays.
    pub mark: Option<Mark>,
}

/// A place in something that can be read again: a journal cursor, an offset in a log. The spool keeps the last
/// one of each name together with the facts, so that after `kill -9` nothing is lost and nothing repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mark {
    /// "journal", or "log " and a path.
    pub name: String,
    /// Whatever the source needs to go on, at most 1 KiB.
    pub position: String,
}

/// The last mark of each name.
pub type Marks = std::collections::BTreeMap<String, String>;

/// The end that sources hold. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Observer {
    queue: mpsc::Sender<Observed>,
    dropped: Arc<AtomicU64>,
    /// Bounded by the logs that there are: one of each name.
    marks: Arc<Mutex<Marks>>,
    notices: Arc<Notices>,
}

/// The end that the spool holds.
#[derive(Debug)]
pub struct Observations {
    queue: mpsc::Receiver<Observed>,
    dropped: Arc<AtomicU64>,
}

/// Makes both ends, for sources that begin where they are.
pub fn channel() -> (Observer, Observations) {
    channel_from(Marks::new())
}

/// Makes both ends, for sources that go on from `marks`.
pub fn channel_from(marks: Marks) -> (Observer, Observations) {
    let (sender, receiver) = mpsc::channel(OBSERVED_MAX);
    let dropped = Arc::new(AtomicU64::new(0));
    (
        Observer {
            queue: sender,
            dropped: Arc::clone(&dropped),
            marks: Arc::new(Mutex::new(marks)),
            notices: Arc::default(),
        },
        Observations { queue: receiver, dropped },
    )
}

impl Observer {
    /// Hands over something that happened now. Never waits: at the bound it is counted and lost, and a
    /// `facts_dropped` tells.
    pub fn observe(&self, kind: Kind) {
        self.observe_at(Moment::now(), kind);
    }

    /// Hands over something that happened at `at`. Never waits.
    pub fn observe_at(&self, at: Moment, kind: Kind) {
        self.notices.note(&kind);
        let observed = Observed { at, kind: Some(kind), mark: None };
        if self.queue.try_send(observed).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Hands over with back-pressure, for sources that can read again where they stopped (logs, journal).
    /// Returns `false` when the agent is shutting down.
    pub async fn observe_waiting(&self, observed: Observed) -> bool {
        let Ok(room) = self.queue.reserve().await else { return false };
        if let Some(mark) = &observed.mark {
            let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
            marks.insert(mark.name.clone(), mark.position.clone());
        }
        if let Some(kind) = &observed.kind {
            self.notices.note(kind);
        }
        room.send(observed);
        true
    }

    /// Where a source that is started now begins: behind everything that was handed over, be it durable yet or not.
    pub fn marks(&self) -> Marks {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What sources act on that look only when something asks for it.
    pub fn notices(&self) -> Arc<Notices> {
        Arc::clone(&self.notices)
    }

    /// From here on `source` sees everything it is for.
    pub fn seeing(&self, source: v1::Source, scope: &str) {
        self.observe(Kind::SourceSeeing(v1::SourceSeeing {
            source: source.into(),
            scope: scope.to_owned(),
        }));
    }

    /// From here on silence of `source` proves nothing. `grant` says what would mend it.
    pub fn blinded(&self, source: v1::Source, scope: &str, reason: &str, grant: &str) {
        self.observe(Kind::SourceBlinded(v1::SourceBlinded {
            source: source.into(),
            scope: scope.to_owned(),
            reason: reason.to_owned(),
            grant: grant.to_owned(),
            since_us: None,
        }));
    }
}

impl Observations {
    /// The next observation; `None` when every observer is gone.
    pub async fn next(&mut self) -> Option<Observed> {
        self.queue.recv().await
    }

    /// What else is there already, without waiting.
    pub fn try_next(&mut self) -> Option<Observed> {
        self.queue.try_recv().ok()
    }

    /// How many were lost at the bound since the last call.
    pub fn take_dropped(&self) -> u64 {
        self.dropped.swap(0, Ordering::Relaxed)
    }
}
