//! One nginx on the host: what it runs with, and what of that was told.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;

use why502_gateway::effective::Target;
use why502_gateway::nginx::version::Build;
use why502_gateway::nginx::{self, Effective, NAME, Paths};
use why502_proto::v1;

use super::super::told::{self, Stamp, Told};
use super::running::{self, Master};
use crate::observe::Observer;
use crate::source::{Roots, UnixClient, gateway::names};

/// Workers of the past whose lines may still come.
const PIDS_MAX: usize = 1024;

/// An nginx, running or only configured.
#[derive(Debug)]
pub struct Instance {
    /// Its main configuration file.
    pub name: String,
    /// `None`: it does not run.
    pub master: Option<Master>,
    /// Where its files are.
    pub paths: Paths,
    /// What its configuration means.
    pub effective: Effective,
    build: Build,
    told: Told,
    workers: BTreeSet<u32>,
    /// Workers whose lines were expected already.
    known: BTreeSet<u32>,
    crashed: BTreeSet<u32>,
    user: Option<(u32, Vec<u32>)>,
    /// Changes of the files it depends on; looked at while it does not run.
    stamp: Stamp,
}

impl Instance {
    /// Not looked at yet.
    pub fn new(paths: Paths, build: Build, master: Option<Master>) -> Self {
        Self {
            name: paths.conf.to_string_lossy().into_owned(),
            master,
            paths,
            build,
            effective: Effective::default(),
            told: Told::default(),
            workers: BTreeSet::new(),
            known: BTreeSet::new(),
            crashed: BTreeSet::new(),
            user: None,
            stamp: Vec::new(),
        }
    }

    /// Reads the configuration and tells what is different from before.
    pub async fn take(&mut self, roots: &Roots, observer: &Observer) {
        let (root, paths) = (roots.root.clone(), self.paths.clone());
        let master = self.master.as_ref();
        let directives = master.map(|master| master.options.directives.clone()).unwrap_or_default();
        let version = self.build.version.clone();
        let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let read = move || nginx::read(&root, &paths, &directives, &version, &hostname);
        if let Ok(effective) = tokio::task::spawn_blocking(read).await {
            self.effective = effective;
        }
        self.stamp = self.stamps(&roots.root);
        self.look_at_workers(&roots.proc);
        let peers = Arc::make_mut(&mut self.effective.config).peers_mut();
        let ask: BTreeSet<String> =
            peers.iter().filter(|peer| peer.name).map(|peer| peer.endpoint.clone()).collect();
        self.tell_seen(observer);
        if !ask.is_empty() {
            // What needs no name is told before anybody waits for a resolver.
            let declared = nginx::declared(&self.effective.config, &self.name);
            let known = declared.values().filter(|fact| !ask.contains(&fact.endpoint));
            self.told.some_declared(observer, known);
            let resolved = names::resolve(ask).await;
            for peer in Arc::make_mut(&mut self.effective.config)
                .peers_mut()
                .into_iter()
                .filter(|peer| peer.name)
            {
                peer.addresses = resolved.get(&peer.endpoint).cloned().unwrap_or_default();
            }
        }
        self.told.all_declared(observer, nginx::declared(&self.effective.config, &self.name));
        self.told.problems(observer, (NAME, &self.name), &self.effective.problems);
    }

    /// Tells that it is there, if that is news.
    pub fn tell_seen(&mut self, observer: &Observer) {
        let config = &self.effective.config;
        let path = |target: &str, default: &str| match nginx::log_target(
            target,
            default,
            &self.paths.prefix,
        ) {
            Target::File(path) => path.to_string_lossy().into_owned(),
            Target::Syslog(_) => "syslog".to_owned(),
            Target::Stdio => "stderr".to_owned(),
            Target::Elsewhere { reason, .. } => reason,
        };
        let error_logs =
            config.error_logs.iter().map(|log| path(&log.target, &self.paths.error_log));
        let access_logs = config.access_logs.keys().map(|log| path(log, &self.paths.access_log));
        let listens = config.servers.iter().flat_map(|server| server.listens.iter().cloned());
        let unique = |all: BTreeSet<String>| all.into_iter().collect::<Vec<_>>();
        let master = self.master.as_ref();
        let seen = v1::GatewaySeen {
            gateway: NAME.to_owned(),
            instance: self.name.clone(),
            version: self.build.version.clone(),
            unit: master.map(|master| master.unit.clone()).unwrap_or_default(),
            pid: master.map_or(0, |master| master.pid),
            worker_uid: self.user.as_ref().map(|(uid, _)| *uid),
            error_logs: unique(error_logs.collect()),
            access_logs: unique(access_logs.collect()),
            listens: unique(listens.collect()),
        };
        self.told.seen(observer, seen);
    }

    /// Its configuration is gone and it does not run.
    pub fn tell_gone(&self, observer: &Observer) {
        self.told.gone(observer, &self.name);
    }

    /// Looks at the workers; `true`: there are new ones that replace no dead ones, so nginx took its configuration again.
    pub fn look_at_workers(&mut self, proc: &Path) -> bool {
        let Some(master) = &self.master else { return false };
        let found = running::workers(proc, master.pid);
        if found.active.is_empty() {
            return false;
        }
        self.user = found.active.first().and_then(|pid| running::user(proc, *pid));
        self.known.extend(found.active.iter().chain(&found.leaving).chain([&master.pid]));
        let new: BTreeSet<u32> = found.active.difference(&self.workers).copied().collect();
        let vanished = self
            .workers
            .iter()
            .filter(|pid| !found.active.contains(pid) && !found.leaving.contains(pid));
        let vanished = vanished.count();
        let replaced = new.len() == found.active.len() && !self.workers.is_subset(&self.crashed);
        let reloaded =
            !self.workers.is_empty() && !new.is_empty() && (new.len() > vanished || replaced);
        if reloaded {
            // Workers of before may not have noticed yet.
            self.workers = new;
            self.crashed.clear();
        } else {
            self.workers = found.active;
        }
        reloaded
    }

    /// Another master runs with this configuration now, or none.
    pub fn set_master(&mut self, master: Option<Master>, build: Option<Build>) {
        self.master = master;
        self.workers.clear();
        if let Some(build) = build {
            self.build = build;
        }
        if self.master.is_none() {
            self.user = None;
        }
    }

    /// A process whose lines were not expected: most likely a worker of a configuration that was just taken.
    pub fn is_stranger(&mut self, pid: u32) -> bool {
        if self.known.len() >= PIDS_MAX {
            self.known.clear();
            self.known.extend(&self.workers);
        }
        self.master.is_some() && self.known.insert(pid)
    }

    /// nginx says that it lost a worker.
    pub fn worker_crashed(&mut self, pid: u32) {
        if self.workers.contains(&pid) {
            self.crashed.insert(pid);
        }
    }

    /// Files changed since they were read.
    pub fn is_stale(&self, root: &Path) -> bool {
        self.stamps(root) != self.stamp
    }

    fn stamps(&self, root: &Path) -> Stamp {
        told::stamp(root, std::iter::once(&self.paths.conf).chain(&self.effective.watched))
    }

    /// Unix sockets that it connects to, and as whom.
    pub fn unix_clients(&self) -> Vec<UnixClient> {
        self.told.unix_clients(self.user.as_ref())
    }

    /// As [`super::running::Master`] with the same pid.
    pub fn runs_as(&self, pid: u32) -> bool {
        self.master.as_ref().is_some_and(|master| master.pid == pid)
    }
}
