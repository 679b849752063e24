//! One gateway that is not nginx: what it runs with, and what of that was told.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use tokio::time::Instant;
use why502_gateway::effective::{Effective, Log, Start, Target};
use why502_gateway::kind;
use why502_gateway::lines::Lines;
use why502_proto::{Kind, v1};

use super::journal_lines::{JournalLines, Reader};
use super::process::{self, Leader};
use super::told::{self, Stamp, Told};
use super::{admin, names};
use crate::observe::Observer;
use crate::source::{Roots, UnixClient};

/// A gateway, running or only configured.
#[derive(Debug)]
pub struct Daemon {
    /// Its kind.
    pub kind: &'static kind::Kind,
    /// Its first process; `None`: it does not run.
    pub leader: Option<Leader>,
    /// What its configuration means.
    pub effective: Effective,
    /// Readers of its logs that are files, by path.
    pub files: BTreeMap<PathBuf, Box<dyn Lines>>,
    /// Where it logs that nobody here can read: why, and what mends it.
    pub dark: Vec<(String, String)>,
    start: Start,
    workers: BTreeSet<u32>,
    user: Option<(u32, Vec<u32>)>,
    asked: Option<Instant>,
    answers: Vec<String>,
    told: Told,
    /// Peers that it said it does not ask.
    disabled: Vec<v1::EndpointDisabled>,
    stamp: Stamp,
}

/// What [`Daemon::look`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing new.
    Same,
    /// It took its configuration anew.
    Reloaded,
    /// Something it depends on is different.
    Changed,
}

impl Daemon {
    /// Nothing is read yet.
    pub fn new(kind: &'static kind::Kind, start: Start) -> Self {
        Self {
            kind,
            leader: None,
            effective: Effective::default(),
            files: BTreeMap::new(),
            dark: Vec::new(),
            start,
            workers: BTreeSet::new(),
            user: None,
            asked: None,
            answers: Vec::new(),
            told: Told::default(),
            disabled: Vec::new(),
            stamp: Vec::new(),
        }
    }

    /// How `leader` was started.
    pub async fn start_of(roots: &Roots, leader: &Leader) -> Start {
        Start {
            argv: leader.argv.clone(),
            directory: std::fs::read_link(roots.proc.join(leader.pid.to_string()).join("cwd"))
                .unwrap_or_else(|_| PathBuf::from("/")),
            root: roots.root.clone(),
            version: process::version(&roots.proc, leader).await,
            environment: process::environment(&roots.proc, leader.pid),
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
        }
    }

    /// The name of the instance; "" before [`Daemon::take`].
    pub fn name(&self) -> &str {
        &self.effective.instance
    }

    /// It was started, or ended.
    pub fn set_leader(&mut self, leader: Option<Leader>, start: Option<Start>) {
        self.leader = leader;
        self.workers.clear();
        self.asked = None;
        if let Some(start) = start {
            self.start = start;
        }
    }

    /// Reads a configuration, away from the thread that has to answer others.
    pub async fn read(kind: &'static kind::Kind, start: &Start) -> Option<Effective> {
        let (start, read) = (start.clone(), kind.read);
        tokio::task::spawn_blocking(move || read(&start)).await.ok()
    }

    /// Reads the configuration anew and takes it.
    pub async fn retake(&mut self, roots: &Roots, observer: &Observer, lines: &JournalLines) {
        if let Some(effective) = Self::read(self.kind, &self.start).await {
            self.take(effective, roots, observer, lines).await;
        }
    }

    /// Asks the gateway, and tells what is different from before.
    pub async fn take(
        &mut self,
        effective: Effective,
        roots: &Roots,
        observer: &Observer,
        lines: &JournalLines,
    ) {
        self.effective = effective;
        self.stamp = self.stamps();
        self.workers = self.workers_now(&roots.proc);
        self.place_logs(lines);
        self.tell_seen(observer);
        // What needs no name, and no answer of the gateway, is told before anybody waits.
        let known = self.effective.endpoints.iter().filter(|fact| !fact.addresses.is_empty());
        self.told.some_declared(observer, known);
        if self.ask(true).await {
            self.place_asked(observer, lines);
        }
        self.resolve().await;
        self.tell_declared(observer);
        self.tell_disabled(observer);
        let name = (self.kind.name, self.effective.instance.as_str());
        self.told.problems(observer, name, &self.effective.problems);
    }

    /// Looks whether it is as it was taken.
    pub async fn look(&mut self, roots: &Roots, observer: &Observer, lines: &JournalLines) -> Look {
        if self.leader.is_none() {
            return if self.stamps() == self.stamp { Look::Same } else { Look::Changed };
        }
        let workers = self.workers_now(&roots.proc);
        let (before, now) = (std::mem::replace(&mut self.workers, workers), &self.workers);
        if !before.is_empty() && !now.is_empty() && before.is_disjoint(now) {
            return Look::Reloaded;
        }
        if self.kind.follows_files && self.stamps() != self.stamp {
            return Look::Reloaded;
        }
        if self.ask(false).await {
            self.place_asked(observer, lines);
            self.resolve().await;
            self.tell_declared(observer);
            self.tell_disabled(observer);
        }
        Look::Same
    }

    fn workers_now(&mut self, proc: &Path) -> BTreeSet<u32> {
        let Some(leader) = &self.leader else { return BTreeSet::new() };
        let workers = process::workers(proc, leader);
        let serves = workers.first().copied().unwrap_or(leader.pid);
        self.user = super::nginx::running::user(proc, serves);
        workers
    }

    /// Asks what it runs with; `true`: the answer is news.
    async fn ask(&mut self, anew: bool) -> bool {
        let Some(admin) = self.effective.admin.clone() else { return false };
        let soon = self.asked.is_some_and(|asked| asked.elapsed() < admin.every);
        if self.leader.is_none() || (soon && !anew) {
            return false;
        }
        self.asked = Some(Instant::now());
        // Without an answer the files are what is known.
        let Ok(answers) = admin::ask(&admin).await else { return false };
        if answers == self.answers && !anew {
            return false;
        }
        (self.kind.answered)(&mut self.effective, &answers);
        self.answers = answers;
        true
    }

    async fn resolve(&mut self) {
        let unknown = |fact: &&mut v1::EndpointDeclared| fact.addresses.is_empty();
        let names = self.effective.endpoints.iter_mut().filter(unknown);
        let names: BTreeSet<String> = names.map(|fact| fact.endpoint.clone()).collect();
        if names.is_empty() {
            return;
        }
        let resolved = names::resolve(names).await;
        for fact in self.effective.endpoints.iter_mut().filter(unknown) {
            fact.addresses = resolved.get(&fact.endpoint).cloned().unwrap_or_default();
        }
    }

    /// Takes logs that only the gateway knew of.
    fn place_asked(&mut self, observer: &Observer, lines: &JournalLines) {
        if !self.effective.logs.is_empty() {
            self.place_logs(lines);
            self.tell_seen(observer);
        }
    }

    /// Gives each log to who reads it.
    fn place_logs(&mut self, journal: &JournalLines) {
        let (mut files, mut dark, mut readers) = (BTreeMap::new(), Vec::new(), Vec::new());
        let instance = self.effective.instance.clone();
        let unit = self.leader.as_ref().map(|leader| leader.unit.clone()).unwrap_or_default();
        for Log { target, lines } in std::mem::take(&mut self.effective.logs) {
            match target {
                Target::File(path) => {
                    files.entry(path).or_insert(lines);
                }
                Target::Elsewhere { reason, grant } => dark.push((reason, grant)),
                Target::Syslog(_) | Target::Stdio => readers.push(Reader {
                    instance: instance.clone(),
                    unit: unit.clone(),
                    programs: self.kind.programs,
                    target,
                    lines,
                }),
            }
        }
        (self.files, self.dark) = (files, dark);
        journal.set(&instance, readers);
    }

    /// Tells that it is there, if that is news.
    pub fn tell_seen(&mut self, observer: &Observer) {
        let leader = self.leader.as_ref();
        let seen = v1::GatewaySeen {
            gateway: self.kind.name.to_owned(),
            instance: self.effective.instance.clone(),
            version: self.start.version.clone(),
            unit: leader.map(|leader| leader.unit.clone()).unwrap_or_default(),
            pid: leader.map_or(0, |leader| leader.pid),
            worker_uid: self.user.as_ref().map(|(uid, _)| *uid).filter(|_| leader.is_some()),
            error_logs: self.files.keys().map(|path| path.to_string_lossy().into()).collect(),
            access_logs: Vec::new(),
            listens: self.effective.listens.iter().cloned().collect(),
        };
        self.told.seen(observer, seen);
    }

    /// Tells all endpoints, by route and endpoint.
    fn tell_declared(&mut self, observer: &Observer) {
        let mut declared = BTreeMap::new();
        for fact in &self.effective.endpoints {
            let name = (fact.route.clone(), fact.endpoint.clone());
            declared.entry(name).or_insert_with(|| fact.clone());
        }
        self.told.all_declared(observer, declared);
    }

    /// Tells peers that it says it does not ask now, and asked when it said so last.
    fn tell_disabled(&mut self, observer: &Observer) {
        let same = |a: &v1::EndpointDisabled, b: &v1::EndpointDisabled| {
            let key = |fact: &v1::EndpointDisabled| (fact.phase, fact.fault);
            a.endpoint == b.endpoint && a.upstream == b.upstream && key(a) == key(b)
        };
        let before = std::mem::replace(&mut self.disabled, self.effective.disabled.clone());
        let news = self.disabled.iter().filter(|fact| !before.iter().any(|old| same(old, fact)));
        news.for_each(|fact| observer.observe(Kind::EndpointDisabled(fact.clone())));
    }

    /// Its configuration is gone and it does not run.
    pub fn tell_gone(&self, observer: &Observer, lines: &JournalLines) {
        lines.set(&self.effective.instance, Vec::new());
        self.told.gone(observer, &self.effective.instance);
    }

    fn stamps(&self) -> Stamp {
        told::stamp(&self.start.root, self.effective.watched.iter())
    }

    /// Unix sockets that it connects to, and as whom.
    pub fn unix_clients(&self) -> Vec<UnixClient> {
        self.told.unix_clients(self.user.as_ref())
    }
}
