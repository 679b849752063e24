//! The logs that are followed, and what was read of them and not told yet.
//!
//! A mark goes with the last of the facts of all lines before it, so that after `kill -9` no line is lost or told twice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Instant;

use why502_proto::v1;

use super::gathered::Gathered;
use super::tail::Tail;
use super::watch::Watch;
use crate::clock::Moment;
use crate::observe::{Mark, Marks, Observed, Observer};
use crate::source::Roots;
use why502_gateway::nginx::access_log::Format;

/// Logs of all gateways of a host. Hosts with a log per site have some hundreds.
const LOGS_MAX: usize = 512;
/// A place behind lines that told nothing is kept this often; reading them again would tell nothing again.
const QUIET_MARK_US: u64 = 10_000_000;

/// A log to follow.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Whose it is.
    pub instance: String,
    /// How its lines are read.
    pub how: How,
}

/// How lines are read.
#[derive(Clone, Debug)]
pub enum How {
    /// An error log of nginx.
    NginxErrors,
    /// An access log of nginx.
    NginxAccess(Access),
    /// By the reader that the instance has for this file.
    Lines {
        /// Behind the other logs of the instance.
        late: bool,
    },
}

/// An access log.
#[derive(Clone, Debug)]
pub struct Access {
    /// What its lines look like.
    pub format: Format,
    /// Indexes of the servers that write it.
    pub servers: BTreeSet<usize>,
}

/// One log.
#[derive(Debug)]
pub struct Log {
    /// How far it was read.
    pub tail: Tail,
    /// Its path as the gateway knows it.
    pub path: PathBuf,
    /// Whose it is, and how it is read.
    pub wanted: Wanted,
    /// What was read and not told yet.
    pub gathered: Gathered,
    watches: BTreeSet<i32>,
    watched: Option<(u64, u64)>,
    /// Whether it can be read, and since when.
    sight: Option<(bool, i64)>,
    marked: String,
    marked_us: u64,
}

/// All of them, by path.
#[derive(Debug, Default)]
pub struct Logs {
    logs: BTreeMap<PathBuf, Log>,
    /// Followed no more, and not all that was read of them is told.
    leaving: Vec<Log>,
    /// Scope, and why and what mends it.
    blind: BTreeMap<String, (String, String)>,
}

impl Logs {
    /// From now on exactly `wanted` are followed, and `blind` (scope; reason and grant) cannot be.
    pub fn follow(
        &mut self,
        wanted: BTreeMap<PathBuf, Wanted>,
        mut blind: BTreeMap<String, (String, String)>,
        roots: &Roots,
        marks: &Marks,
        observer: &Observer,
    ) {
        let gone = self.logs.extract_if(.., |path, _| !wanted.contains_key(path));
        self.leaving.extend(gone.map(|(_, log)| log).filter(|log| log.gathered.due_us().is_some()));
        if wanted.len() > LOGS_MAX {
            let reason =
                format!("{} of {} logs are not followed", wanted.len() - LOGS_MAX, wanted.len());
            let grant = "let sites share an error log".to_owned();
            blind.insert("logs".to_owned(), (reason, grant));
        }
        for (path, wanted) in wanted.into_iter().take(LOGS_MAX) {
            let log = self.logs.entry(path.clone()).or_insert_with(|| {
                let mark = marks.get(&format!("log {}", path.display())).cloned();
                let tail = Tail::new(why502_gateway::files::below(&roots.root, &path), mark);
                Log::new(tail, path, wanted.clone())
            });
            log.wanted = wanted;
        }
        for (scope, why) in &blind {
            if self.blind.get(scope) != Some(why) {
                let (reason, grant) = why;
                observer.blinded(v1::Source::Gateway, scope, reason, grant);
            }
        }
        for scope in self.blind.keys().filter(|scope| !blind.contains_key(*scope)) {
            observer.seeing(v1::Source::Gateway, scope);
        }
        self.blind = blind;
    }

    /// Logs that `changed` names; all without it. Error logs first: what they say decides what access lines mean.
    pub fn changed(&self, changed: Option<&BTreeSet<i32>>) -> Vec<PathBuf> {
        let named = |log: &&Log| changed.is_none_or(|changed| !changed.is_disjoint(&log.watches));
        let mut logs: Vec<&Log> = self.logs.values().filter(named).collect();
        logs.sort_by_key(|log| {
            matches!(log.wanted.how, How::NginxAccess(_) | How::Lines { late: true })
        });
        logs.into_iter().map(|log| log.path.clone()).collect()
    }

    /// Error logs of an instance.
    pub fn error_logs(&self, instance: &str) -> Vec<PathBuf> {
        let of = |log: &&Log| {
            log.wanted.instance == instance && matches!(log.wanted.how, How::NginxErrors)
        };
        self.logs.values().filter(of).map(|log| log.path.clone()).collect()
    }

    /// Since when all error logs of an instance are read, microseconds since 1970. `None`: one of them is not.
    pub fn errors_seen_since(&self, instance: &str) -> Option<i64> {
        let of = |log: &&Log| {
            log.wanted.instance == instance && matches!(log.wanted.how, How::NginxErrors)
        };
        let since = |log: &Log| log.sight.filter(|(seeing, _)| *seeing).map(|(_, since)| since);
        let since: Option<Vec<i64>> = self.logs.values().filter(of).map(since).collect();
        since?.into_iter().max()
    }

    /// The log at `path`.
    pub fn get_mut(&mut self, path: &PathBuf) -> Option<&mut Log> {
        self.logs.get_mut(path)
    }

    /// When facts that wait have to be told, boot time.
    pub fn due_us(&self) -> Option<u64> {
        self.logs.values().filter_map(|log| log.gathered.due_us()).min()
    }

    /// Tells what is due of every log. `false`: the agent is shutting down.
    pub async fn flush(&mut self, observer: &Observer) -> bool {
        let now = Moment::now();
        self.leaving.iter_mut().for_each(|log| log.gathered.urge(now));
        for log in self.leaving.iter_mut().chain(self.logs.values_mut()) {
            if !log.flush(observer).await {
                return false;
            }
        }
        self.leaving.clear();
        true
    }
}

impl Log {
    fn new(tail: Tail, path: PathBuf, wanted: Wanted) -> Self {
        Self {
            tail,
            path,
            wanted,
            gathered: Gathered::default(),
            watches: BTreeSet::new(),
            watched: None,
            sight: None,
            marked: String::new(),
            marked_us: 0,
        }
    }

    /// Whether it could be read when that was tried last.
    pub fn seeing(&self) -> bool {
        self.sight.is_some_and(|(seeing, _)| seeing)
    }

    /// Looks for rotation and reads what is there, up to a bound. `false` in the second place: nothing more was there.
    pub fn read(&mut self, observer: &Observer, watch: Option<&Watch>) -> (Vec<String>, bool) {
        let now = Instant::now();
        let mut lines = Vec::new();
        let read = self.tail.look(now).and_then(|()| self.tail.read(now, &mut lines));
        if let Some(watch) =
            watch.filter(|_| self.watched.is_none() || self.watched != self.tail.current())
        {
            self.watches = watch.add(self.tail.path());
            self.watched = self.tail.current();
        }
        let scope = self.path.to_string_lossy();
        let more = match read {
            Ok(more) => {
                if !self.sight.is_some_and(|(seeing, _)| seeing) {
                    observer.seeing(v1::Source::Gateway, &scope);
                    self.sight = Some((true, Moment::now().realtime_us));
                }
                more
            }
            Err(error) => {
                if self.sight.is_none_or(|(seeing, _)| seeing) {
                    let reason = format!("cannot read {scope}: {error}");
                    let grant = "add why502-agent to group adm";
                    observer.blinded(v1::Source::Gateway, &scope, &reason, grant);
                }
                self.sight = Some((false, 0));
                false
            }
        };
        if std::mem::take(&mut self.tail.lost) {
            let reason = format!("{scope} was rotated away before it was read to its end");
            observer.blinded(v1::Source::Gateway, &scope, &reason, "rotate with delaycompress");
            observer.seeing(v1::Source::Gateway, &scope);
        }
        (lines, more)
    }

    /// Tells what is due, with the place up to which all is told. `false`: the agent is shutting down.
    pub async fn flush(&mut self, observer: &Observer) -> bool {
        let now = Moment::now();
        let mut facts = self.gathered.take(now);
        let waits = self.gathered.due_us().is_some();
        let quiet = now.boottime_us.saturating_sub(self.marked_us) < QUIET_MARK_US;
        if self.tail.current().is_none() || (facts.is_empty() && (waits || quiet)) {
            return true;
        }
        let position = self.tail.position();
        let mark = (position != self.marked).then(|| Mark {
            name: format!("log {}", self.path.display()),
            position: position.clone(),
        });
        (self.marked, self.marked_us) = (position, now.boottime_us);
        let last = facts.pop();
        for (at, kind) in facts {
            let observed = Observed { at, kind: Some(kind), mark: None };
            if !observer.observe_waiting(observed).await {
                return false;
            }
        }
        let (at, kind) = last.map_or((now, None), |(at, kind)| (at, Some(kind)));
        if kind.is_none() && mark.is_none() {
            return true;
        }
        observer.observe_waiting(Observed { at, kind, mark }).await
    }
}
