//! What gateways on this host declare, and which of their requests fail.
//!
//! Each kind of gateway has a folder ([`nginx`]) that goes from text to a tree with positions, to the effective
//! configuration, to facts; a construct that is not understood costs its own block. Beside them stands what all kinds
//! share: [`tail`] follows logs, [`failures`] gathers what they tell.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use jiff::tz::TimeZone;
use tokio::time::{MissedTickBehavior, interval};
use why502_gateway::nginx::{NAME, Options, crashed, disabled, failed, paths};
use why502_proto::{Kind, v1};

use self::daemons::Daemons;
use self::journal_lines::JournalLines;
use self::logs::{Access, How, Logs};
use self::nginx::instance::Instance;
use self::nginx::log_files;
use self::nginx::running;
use self::process::Finder;
use self::watch::Watch;
use super::{Interest, Roots, UnixClient};
use crate::clock::Moment;
use crate::observe::{Marks, Observer};
use why502_gateway::nginx::answers::{self, Complaints};
use why502_gateway::nginx::error_log::{self, ErrorLine};
use why502_gateway::nginx::message::{Meaning, meaning};
use why502_gateway::nginx::version::Build;

pub mod admin;
pub mod counts;
pub mod daemon;
pub mod daemons;
pub mod failures;
pub mod gathered;
pub mod journal_lines;
pub mod logs;
pub mod named;
pub mod names;
pub mod nginx;
pub mod process;
pub mod stamp;
pub mod tail;
pub mod told;
pub mod watch;

/// The net below inotify, and how soon a reload, a start or an end of a gateway is noticed without any request.
const TICK: Duration = Duration::from_secs(2);
/// Chunks of 64 KiB that are read of one log before the others have their turn.
const READS_MAX: usize = 16;

/// An answer that came this soon after the error log was opened may have been complained of before.
const BEFORE_US: i64 = 2_000_000;

/// What the source needs besides the host.
#[derive(Clone, Debug)]
pub struct Given {
    /// Where logs were left.
    pub marks: Marks,
    /// Has lines that are in no file.
    pub journal: JournalLines,
    /// Endpoints that are named for a gateway that cannot be read.
    pub named: Rc<[String]>,
}

/// Watches gateways until the task is dropped, or nobody takes what it observes. `tell` takes what other sources should
/// look at.
pub async fn run(
    roots: Roots,
    observer: Observer,
    tell: impl Fn(Interest) + 'static,
    given: Given,
) {
    let watch = Watch::start();
    if let Err(error) = &watch {
        tracing::warn!(error = %error, "logs are only looked at every 2 s");
    }
    let zone = stamp::zone(&roots.root);
    let mut gateways = Gateways {
        roots,
        observer,
        tell,
        watch: watch.ok(),
        zone,
        finder: Finder::default(),
        in_containers: Finder::default(),
        contained: BTreeSet::new(),
        daemons: Daemons::new(given.journal.clone()),
        given,
        builds: BTreeMap::new(),
        instances: BTreeMap::new(),
        logs: Logs::default(),
        clients: Vec::new(),
        blind: BTreeSet::new(),
        dark: BTreeSet::new(),
        complaints: Complaints::default(),
    };
    gateways.run().await;
}

struct Gateways<T> {
    roots: Roots,
    observer: Observer,
    tell: T,
    watch: Option<Watch>,
    zone: TimeZone,
    finder: Finder,
    in_containers: Finder,
    /// Gateways in containers, as they were told.
    contained: BTreeSet<String>,
    daemons: Daemons,
    given: Given,
    /// What `nginx -V` said, by pid of the master; 0 for the one that does not run.
    builds: BTreeMap<u32, Build>,
    instances: BTreeMap<String, Instance>,
    logs: Logs,
    clients: Vec<UnixClient>,
    /// Instances whose configuration cannot be read.
    blind: BTreeSet<String>,
    /// Instances with an error log that is no file, or says too little.
    dark: BTreeSet<String>,
    complaints: Complaints,
}

impl<T: Fn(Interest)> Gateways<T> {
    async fn run(&mut self) {
        self.refresh().await;
        self.given.journal.known();
        named::tell(&self.given.named, &self.observer).await;
        self.after_take();
        self.observer.seeing(v1::Source::Gateway, "");
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.reset();
        let mut more = self.read_logs(None).await;
        while self.logs.flush(&self.observer).await {
            let due = if more { Some(0) } else { self.logs.due_us() };
            tokio::select! {
                _ = tick.tick() => {
                    self.refresh().await;
                    more = self.read_logs(None).await;
                }
                changed = changed(self.watch.as_ref()) => {
                    more |= self.read_logs(Some(&changed)).await;
                }
                names = self.given.journal.reloaded() => self.reloaded(&names).await,
                () = Moment::reached(due.unwrap_or(0)), if due.is_some() => {
                    if more {
                        more = self.read_logs(None).await;
                        tokio::task::yield_now().await;
                    }
                }
            }
        }
    }

    /// Finds out what runs, and takes anew what was started, reloaded or, where it does not run, changed.
    async fn refresh(&mut self) {
        let pids = process::pids(&self.roots.proc);
        let masters = self.finder.find(&pids, |pid| running::master(&self.roots.proc, pid));
        let alive: BTreeSet<u32> = masters.iter().map(|master| master.pid).collect();
        self.builds.retain(|pid, _| *pid == 0 || alive.contains(pid));
        for (name, pid) in self.given.journal.crashed() {
            self.instances.get_mut(&name).into_iter().for_each(|own| own.worker_crashed(pid));
        }
        let mut taken = false;
        for instance in self.instances.values_mut() {
            if instance.master.as_ref().is_some_and(|master| !alive.contains(&master.pid)) {
                instance.set_master(None, None);
                instance.tell_seen(&self.observer);
                taken = true;
            }
        }
        for master in masters {
            let known = self.instances.values().find(|instance| instance.runs_as(master.pid));
            if let Some(name) = known.map(|instance| instance.name.clone()) {
                taken |= self.check_reload(&name).await;
                continue;
            }
            let build = match self.builds.get(&master.pid) {
                Some(build) => build.clone(),
                None => running::build(&self.roots.proc, Some(&master)).await,
            };
            self.builds.insert(master.pid, build.clone());
            let directory = running::working_directory(&self.roots.proc, master.pid);
            let paths = paths(&build, &master.options, directory.as_deref());
            let name = paths.conf.to_string_lossy().into_owned();
            let instance = self
                .instances
                .entry(name)
                .or_insert_with(|| Instance::new(paths.clone(), build.clone(), None));
            // During an upgrade of the program two masters run; the old one counts until it ends.
            if instance.master.is_none() {
                instance.paths = paths;
                instance.set_master(Some(master), Some(build));
                instance.take(&self.roots, &self.observer).await;
                taken = true;
            }
        }
        taken |= self.refresh_idle().await;
        taken |= self.daemons.refresh(&pids, &self.roots, &self.observer).await;
        if taken {
            self.after_take();
        }
        self.tell_contained(&pids);
    }

    /// Gateways in containers are not read yet, and silence about them would look like health.
    fn tell_contained(&mut self, pids: &BTreeSet<u32>) {
        let look = |pid| process::contained(&self.roots.proc, pid);
        let now: BTreeSet<String> = self.in_containers.find(pids, look).into_iter().collect();
        for scope in now.difference(&self.contained) {
            let reason = "its files and its network are the container's";
            let grant = "run why502-agent in the container, or name its `endpoints` in agent.toml";
            self.observer.blinded(v1::Source::Gateway, scope, reason, grant);
        }
        for scope in self.contained.difference(&now) {
            self.observer.seeing(v1::Source::Gateway, scope);
        }
        self.contained = now;
    }

    /// Instances that are configured and do not run.
    async fn refresh_idle(&mut self) -> bool {
        let mut taken = false;
        let default = PathBuf::from(Build::default().conf);
        let there = |path: &PathBuf| why502_gateway::files::below(&self.roots.root, path).exists();
        if there(&default) && !self.instances.contains_key(default.to_string_lossy().as_ref()) {
            let build = match self.builds.get(&0) {
                Some(build) => build.clone(),
                None => running::build(&self.roots.proc, None).await,
            };
            self.builds.insert(0, build.clone());
            let mut paths = paths(&build, &Options::default(), None);
            paths.conf = default;
            let mut instance = Instance::new(paths, build, None);
            instance.take(&self.roots, &self.observer).await;
            self.instances.insert(instance.name.clone(), instance);
            taken = true;
        }
        let mut gone = Vec::new();
        for instance in self.instances.values_mut().filter(|instance| instance.master.is_none()) {
            if !why502_gateway::files::below(&self.roots.root, &instance.paths.conf).exists() {
                instance.tell_gone(&self.observer);
                self.given.journal.set(&instance.name, Vec::new());
                gone.push(instance.name.clone());
            } else if instance.is_stale(&self.roots.root) {
                instance.take(&self.roots, &self.observer).await;
                taken = true;
            }
        }
        taken |= !gone.is_empty();
        self.instances.retain(|name, _| !gone.contains(name));
        taken
    }

    async fn check_reload(&mut self, name: &str) -> bool {
        let Some(instance) = self.instances.get_mut(name) else { return false };
        if !instance.look_at_workers(&self.roots.proc) {
            instance.tell_seen(&self.observer);
            return false;
        }
        self.observer.observe(Kind::GatewayReloaded(v1::GatewayReloaded {
            gateway: NAME.to_owned(),
            instance: name.to_owned(),
            error: String::new(),
        }));
        instance.take(&self.roots, &self.observer).await;
        true
    }

    /// Logs to follow and sockets to look at may be others now.
    fn after_take(&mut self) {
        let (mut wanted, mut blind) = (BTreeMap::new(), BTreeMap::new());
        self.dark.clear();
        self.daemons.logs(&mut wanted, &mut blind);
        for instance in self.instances.values() {
            log_files::access_logs(instance, &mut wanted);
            if log_files::error_logs(instance, &mut wanted, &mut blind) {
                self.dark.insert(instance.name.clone());
            }
            let reader = log_files::journal_reader(instance, &self.zone);
            self.given.journal.set(&instance.name, reader.into_iter().collect());
        }
        let nginx = self.instances.values();
        let nginx = nginx.map(|instance| (instance.name.as_str(), instance.effective.readable));
        for (name, readable) in nginx.chain(self.daemons.readable()) {
            if readable && self.blind.remove(name) {
                self.observer.seeing(v1::Source::Gateway, name);
            } else if !readable && self.blind.insert(name.to_owned()) {
                let reason = format!("cannot read {name}");
                let grant = "let why502-agent read the configuration";
                self.observer.blinded(v1::Source::Gateway, name, &reason, grant);
            }
        }
        // A log that is followed again goes on where it was left.
        let mut marks = self.given.marks.clone();
        marks.extend(self.observer.marks());
        self.logs.follow(wanted, blind, &self.roots, &marks, &self.observer);
        let nginx = self.instances.values().flat_map(Instance::unix_clients);
        let clients: Vec<_> = nginx
            .chain(self.daemons.unix_clients())
            .chain(named::unix_clients(&self.given.named))
            .collect();
        if clients != self.clients {
            (self.tell)(Interest::UnixPaths(clients.clone()));
            self.clients = clients;
        }
    }

    /// Reads logs that changed; `true`: more is there.
    async fn read_logs(&mut self, changed: Option<&BTreeSet<i32>>) -> bool {
        let mut more = false;
        for path in self.logs.changed(changed) {
            for reads in 0..READS_MAX {
                let Some(log) = self.logs.get_mut(&path) else { break };
                let (lines, again) = log.read(&self.observer, self.watch.as_ref());
                more |= again && reads + 1 == READS_MAX;
                let seeing = log.seeing() && !again;
                self.lines(&path, &lines, seeing).await;
                let Some(log) = self.logs.get_mut(&path) else { break };
                if !again || !log.flush(&self.observer).await {
                    break;
                }
            }
        }
        more
    }

    async fn lines(&mut self, path: &PathBuf, lines: &[String], seeing: bool) {
        let Some(wanted) = self.logs.get_mut(path).map(|log| log.wanted.clone()) else { return };
        match wanted.how {
            How::NginxErrors => self.error_lines(path, wanted.instance, lines).await,
            How::NginxAccess(access) => {
                self.access_lines(path, &wanted.instance, &access, lines).await;
            }
            How::Lines { .. } => self.daemon_lines(path, &wanted.instance, lines, seeing).await,
        }
    }

    async fn daemon_lines(&mut self, path: &PathBuf, name: &str, lines: &[String], seeing: bool) {
        let Some(log) = self.logs.get_mut(path) else { return };
        let (mut told, mut reloaded) = (Vec::new(), false);
        let now = Moment::now();
        self.daemons.read(name, path, lines, seeing, &mut told);
        for told in told {
            reloaded |= log.gathered.add(told, now);
        }
        if reloaded {
            self.reloaded(&BTreeSet::from([name.to_owned()])).await;
        }
    }

    async fn reloaded(&mut self, names: &BTreeSet<String>) {
        self.daemons.reloaded(names, &self.roots, &self.observer).await;
        self.after_take();
    }

    async fn access_lines(
        &mut self,
        path: &PathBuf,
        name: &str,
        access: &Access,
        lines: &[String],
    ) {
        let parsed: Vec<_> = lines.iter().filter_map(|line| access.format.read(line)).collect();
        let suspicious = parsed.iter().any(|line| (502..=504).contains(&line.status));
        if suspicious && !access.format.tells_header() {
            // The error line of a request is written before its access line: read what is there.
            for path in self.logs.error_logs(name) {
                for _ in 0..READS_MAX {
                    let Some(log) = self.logs.get_mut(&path) else { break };
                    let (lines, again) = log.read(&self.observer, self.watch.as_ref());
                    self.error_lines(&path, name.to_owned(), &lines).await;
                    if !again {
                        break;
                    }
                }
            }
        }
        let since = self.logs.errors_seen_since(name).filter(|_| !self.dark.contains(name));
        let Some(instance) = self.instances.get(name) else { return };
        let Some(log) = self.logs.get_mut(path) else { return };
        let now = Moment::now();
        let config = &instance.effective.config;
        for line in &parsed {
            let Some((server, location)) = answers::locate(config, &access.servers, line) else {
                continue;
            };
            let sure = since.zip(line.at_us).is_some_and(|(since, at)| at > since + BEFORE_US);
            let relayed = answers::relayed(line, server, sure, &mut self.complaints);
            let count = answers::count(line, location, name, relayed);
            log.gathered.counts.add(now.boottime_us, &count);
            if relayed {
                let at = stamp::moment(line.at_us, now);
                log.gathered.failures.add(at, now, answers::failure(line, location, name));
            }
        }
    }

    async fn error_lines(&mut self, path: &PathBuf, name: String, lines: &[String]) {
        let parsed: Vec<ErrorLine<'_>> =
            lines.iter().filter_map(|line| error_log::parse(line)).collect();
        // A worker that was not seen before: nginx was reloaded, and the line is about what it declares now.
        let stranger = self.instances.get_mut(&name).is_some_and(|instance| {
            // All of them: each is a stranger only once.
            parsed.iter().filter(|line| instance.is_stranger(line.pid)).count() > 0
        });
        if stranger {
            self.refresh().await;
        }
        let now = Moment::now();
        for line in &parsed {
            let second = error_log::micros(line.stamp, &self.zone);
            let complains = matches!(meaning(line), Meaning::Failed { .. } | Meaning::OwnAnswer);
            if let Some(second) = second.filter(|_| complains) {
                self.complaints.add(line, second);
            }
            let at = stamp::moment(second, now);
            self.error_line(path, &name, line, at, now);
        }
    }

    fn error_line(
        &mut self,
        path: &PathBuf,
        name: &str,
        line: &ErrorLine<'_>,
        at: Moment,
        now: Moment,
    ) {
        let Some(instance) = self.instances.get_mut(name) else { return };
        let Some(log) = self.logs.get_mut(path) else { return };
        match meaning(line) {
            Meaning::Failed { .. } => {
                if let Some(failed) = failed(line, &instance.effective.config, name) {
                    log.gathered.failures.add(at, now, failed);
                }
            }
            Meaning::Disabled => log.gathered.others.push((
                at,
                Kind::EndpointDisabled(disabled(line, &instance.effective.config, name)),
            )),
            Meaning::WorkerCrashed(pid, signal) => {
                instance.worker_crashed(pid);
                let unit = instance.master.as_ref().map_or("", |master| master.unit.as_str());
                log.gathered
                    .others
                    .push((at, Kind::AppServerEvent(crashed(line, unit, pid, signal))));
            }
            Meaning::Refused => {
                if instance.master.is_none() || instance.runs_as(line.pid) {
                    let refused = v1::GatewayReloaded {
                        gateway: NAME.to_owned(),
                        instance: name.to_owned(),
                        error: why502_gateway::redact::line(line.message),
                    };
                    log.gathered.others.push((at, Kind::GatewayReloaded(refused)));
                }
            }
            Meaning::OwnAnswer | Meaning::Nothing => {}
        }
    }
}

async fn changed(watch: Option<&Watch>) -> BTreeSet<i32> {
    match watch {
        Some(watch) => watch.changed().await,
        None => std::future::pending().await,
    }
}
