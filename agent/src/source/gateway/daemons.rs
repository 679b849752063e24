//! All gateways of this host that are not nginx.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use why502_gateway::effective::Start;
use why502_gateway::files::below;
use why502_gateway::kind::{self, KINDS};
use why502_gateway::lines::Told;
use why502_proto::{Kind, v1};

use super::daemon::{Daemon, Look};
use super::journal_lines::JournalLines;
use super::logs::{How, Wanted};
use super::process::{self, Finder, Leader};
use crate::observe::Observer;
use crate::source::{Roots, UnixClient};

/// Gateways, by the names of their instances.
#[derive(Debug)]
pub struct Daemons {
    finder: Finder,
    all: BTreeMap<String, Daemon>,
    /// Leaders whose configuration was taken.
    taken: BTreeSet<u32>,
    journal: JournalLines,
}

impl Daemons {
    /// None is known yet. `journal` has those of their lines that are in no file.
    pub fn new(journal: JournalLines) -> Self {
        Self { finder: Finder::default(), all: BTreeMap::new(), taken: BTreeSet::new(), journal }
    }

    /// Finds out what runs, and takes anew what was started, reloaded or, where it does not run, changed. `true`: there
    /// was such a one.
    pub async fn refresh(
        &mut self,
        pids: &BTreeSet<u32>,
        roots: &Roots,
        observer: &Observer,
    ) -> bool {
        let leaders = self.finder.find(pids, |pid| process::leader(&roots.proc, pid));
        let alive: BTreeSet<u32> = leaders.iter().map(|leader| leader.pid).collect();
        self.taken.retain(|pid| alive.contains(pid));
        let mut taken = false;
        for daemon in self.all.values_mut() {
            if daemon.leader.as_ref().is_some_and(|leader| !alive.contains(&leader.pid)) {
                daemon.set_leader(None, None);
                daemon.tell_seen(observer);
                taken = true;
            }
        }
        for leader in leaders {
            if !self.taken.contains(&leader.pid) {
                self.started(leader, roots, observer).await;
                taken = true;
            }
        }
        taken | self.look(roots, observer).await | self.refresh_idle(roots, observer).await
    }

    async fn started(&mut self, leader: Leader, roots: &Roots, observer: &Observer) {
        let kind = leader.kind;
        self.taken.insert(leader.pid);
        let start = Daemon::start_of(roots, &leader).await;
        let Some(effective) = Daemon::read(kind, &start).await else { return };
        // Of two with one configuration, the one that was started last takes the requests.
        let daemon = self
            .all
            .entry(effective.instance.clone())
            .or_insert_with(|| Daemon::new(kind, start.clone()));
        daemon.set_leader(Some(leader), Some(start));
        daemon.take(effective, roots, observer, &self.journal).await;
    }

    async fn look(&mut self, roots: &Roots, observer: &Observer) -> bool {
        let mut taken = false;
        for daemon in self.all.values_mut() {
            match daemon.look(roots, observer, &self.journal).await {
                Look::Same => {}
                Look::Changed => {
                    daemon.retake(roots, observer, &self.journal).await;
                    taken = true;
                }
                Look::Reloaded => {
                    observer.observe(Kind::GatewayReloaded(v1::GatewayReloaded {
                        gateway: daemon.kind.name.to_owned(),
                        instance: daemon.name().to_owned(),
                        error: String::new(),
                    }));
                    daemon.retake(roots, observer, &self.journal).await;
                    taken = true;
                }
            }
        }
        taken
    }

    /// Gateways that are configured and do not run.
    async fn refresh_idle(&mut self, roots: &Roots, observer: &Observer) -> bool {
        let there = |path: &str| below(&roots.root, Path::new(path)).exists();
        let mut taken = false;
        for kind in KINDS {
            let found = kind.usual.iter().find(|path| there(path));
            if let Some(path) =
                found.filter(|_| !self.all.values().any(|d| d.kind.name == kind.name))
            {
                taken |= self.configured(kind, path, roots, observer).await;
            }
        }
        let idle = |daemon: &Daemon| daemon.leader.is_none() && !there(daemon.name());
        let gone: Vec<String> = self
            .all
            .iter()
            .filter(|(_, daemon)| idle(daemon))
            .map(|(name, _)| name.clone())
            .collect();
        for name in &gone {
            if let Some(daemon) = self.all.remove(name) {
                daemon.tell_gone(observer, &self.journal);
            }
        }
        taken | !gone.is_empty()
    }

    async fn configured(
        &mut self,
        kind: &'static kind::Kind,
        path: &str,
        roots: &Roots,
        observer: &Observer,
    ) -> bool {
        let start = Start {
            argv: vec![kind.programs.first().copied().unwrap_or(kind.name).to_owned()],
            directory: PathBuf::from("/"),
            root: roots.root.clone(),
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            ..Start::default()
        };
        let Some(effective) = Daemon::read(kind, &start).await else { return false };
        if !below(&roots.root, Path::new(&effective.instance)).exists() {
            tracing::debug!(kind = kind.name, path, "is not what the program reads by itself");
            return false;
        }
        let mut daemon = Daemon::new(kind, start);
        let name = effective.instance.clone();
        daemon.take(effective, roots, observer, &self.journal).await;
        self.all.insert(name, daemon);
        true
    }

    /// These said that they took their configuration anew; it has been told.
    pub async fn reloaded(&mut self, names: &BTreeSet<String>, roots: &Roots, observer: &Observer) {
        for name in names {
            if let Some(daemon) = self.all.get_mut(name) {
                daemon.retake(roots, observer, &self.journal).await;
            }
        }
    }

    /// Adds the logs that are files, and why others cannot be followed.
    pub fn logs(
        &self,
        wanted: &mut BTreeMap<PathBuf, Wanted>,
        blind: &mut BTreeMap<String, (String, String)>,
    ) {
        for (name, daemon) in &self.all {
            let files = daemon.files.keys().cloned();
            wanted.extend(
                files.map(|path| (path, Wanted { instance: name.clone(), how: How::Lines })),
            );
            for (reason, grant) in &daemon.dark {
                blind.insert(format!("logs of {name}"), (reason.clone(), grant.clone()));
            }
        }
    }

    /// Instances, and whether their configuration can be read.
    pub fn readable(&self) -> impl Iterator<Item = (&str, bool)> {
        self.all.iter().map(|(name, daemon)| (name.as_str(), daemon.effective.readable))
    }

    /// What a line of a file tells.
    pub fn read(&mut self, instance: &str, path: &Path, line: &str, told: &mut Vec<Told>) {
        let daemon = self.all.get_mut(instance);
        if let Some(lines) = daemon.and_then(|daemon| daemon.files.get_mut(path)) {
            lines.read(line, told);
        }
    }

    /// Unix sockets that any of them connects to.
    pub fn unix_clients(&self) -> impl Iterator<Item = UnixClient> {
        self.all.values().flat_map(Daemon::unix_clients)
    }
}
