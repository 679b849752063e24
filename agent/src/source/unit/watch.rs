//! What is known of units, and what was last said of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use why502_proto::{Kind, v1};

use super::asker;
use super::bus::{Bus, BusError, Signal};
use super::job::{self, Job, Jobs};
use super::state::{self, Properties, UNIT_INTERFACE};
use crate::clock::Moment;
use crate::observe::Observer;
use crate::source::{Interest, Roots};

/// How many units are watched. Hosts with more have a generator gone wild; a fact says so.
const UNITS_MAX: usize = 4096;

/// Package managers reload systemd a dozen times in a row: look once, when it is quiet for so long.
const RELOAD_QUIET: Duration = Duration::from_millis(500);

/// A reload that does not end in this time is not waited for.
const RELOAD_MAX: Duration = Duration::from_secs(30);

const SERVICE_INTERFACE: &str = "org.freedesktop.systemd1.Service";
const SOCKET_INTERFACE: &str = "org.freedesktop.systemd1.Socket";
const JOB_INTERFACE: &str = "org.freedesktop.systemd1.Job";

/// All units that matter, and who wants to hear of them.
pub(super) struct Watch<T> {
    roots: Roots,
    observer: Observer,
    tell: T,
    pub(super) units: BTreeMap<String, Known>,
    /// Oneshot services: they do not serve, and timers start them often.
    oneshots: BTreeSet<String>,
    jobs: Jobs,
    /// systemd forgets all units and finds them again; that says nothing about them.
    reloading: bool,
    full: bool,
}

/// A unit that matters, or may.
pub(super) struct Known {
    path: String,
    pub(super) state: v1::UnitState,
    /// When the state changed last, boot time. A signal of an earlier change is late news.
    changed_us: u64,
    pub(super) said: Option<v1::UnitState>,
}

impl<T: Fn(Interest)> Watch<T> {
    pub(super) fn new(roots: Roots, observer: Observer, tell: T) -> Self {
        Self {
            roots,
            observer,
            tell,
            units: BTreeMap::new(),
            oneshots: BTreeSet::new(),
            jobs: Jobs::default(),
            reloading: false,
            full: false,
        }
    }

    /// Tells what is, then what changes, until systemd cannot be asked any more.
    pub(super) async fn follow(
        &mut self,
        bus: &Bus,
        mut signals: mpsc::Receiver<(Moment, Signal)>,
        seen: &mut bool,
    ) -> BusError {
        self.jobs.clear();
        self.reloading = false;
        if let Err(error) = self.list(bus, true).await {
            return error;
        }
        self.observer.seeing(v1::Source::Unit, "");
        *seen = true;
        let mut list_at: Option<Instant> = None;
        loop {
            let signal = match list_at {
                None => signals.recv().await,
                Some(at) => match timeout_at(at, signals.recv()).await {
                    Ok(signal) => signal,
                    Err(_elapsed) => {
                        (list_at, self.reloading) = (None, false);
                        if let Err(error) = self.list(bus, false).await {
                            return error;
                        }
                        continue;
                    }
                },
            };
            match signal {
                None => return BusError::Ended,
                Some((_, Signal::Reloading)) => {
                    (list_at, self.reloading) = (Some(Instant::now() + RELOAD_MAX), true);
                }
                Some((_, Signal::FilesChanged)) => {
                    (list_at, self.reloading) = (Some(Instant::now() + RELOAD_QUIET), false);
                }
                Some((at, signal)) => self.handle(bus, at, signal).await,
            }
        }
    }

    async fn handle(&mut self, bus: &Bus, came: Moment, signal: Signal) {
        match signal {
            Signal::Changed { path, interface, properties } => {
                self.changed(bus, came, &path, &interface, &properties).await;
            }
            Signal::JobNew { id, job_path, unit } => {
                self.job_new(bus, came, id, job_path.as_str(), &unit).await;
            }
            Signal::JobRemoved { id, unit, result } => self.job_removed(came, id, &unit, result),
            Signal::UnitRemoved { unit } if !self.reloading => {
                self.oneshots.remove(&unit);
                if self.units.contains_key(&unit) {
                    let file = bus.unit_file_state(&unit).await;
                    self.gone(&unit, file.as_deref());
                }
            }
            Signal::UnitRemoved { .. } | Signal::Reloading | Signal::FilesChanged => {}
        }
    }

    /// Reads the properties of a unit that may matter: all of them if `whole`, else only what signals do not tell.
    pub(super) async fn adopt(&mut self, bus: &Bus, name: &str, path: &str, whole: bool) {
        let special = if name.ends_with(".socket") { SOCKET_INTERFACE } else { SERVICE_INTERFACE };
        let mut read = Vec::new();
        let mut changed_us = 0;
        for interface in [special, UNIT_INTERFACE] {
            // A unit that is gone before we ask stays known by its signals alone.
            let Ok(mut properties) = bus.properties(path, interface).await else { continue };
            if whole {
                changed_us = changed_us.max(state::changed_us(&properties).unwrap_or(0));
            } else {
                state::retain_settings(&mut properties);
            }
            read.push((interface, properties));
        }
        self.update(name, path, changed_us, |unit| {
            if unit.load.is_empty() {
                unit.load = "loaded".into();
            }
            for (interface, properties) in &read {
                state::apply(unit, interface, properties);
            }
        });
    }

    /// Changes what is known of a unit, and tells of a new main process.
    pub(super) fn update(
        &mut self,
        name: &str,
        path: &str,
        changed_us: u64,
        change: impl FnOnce(&mut v1::UnitState),
    ) {
        let Some(known) = self.entry(name, path) else { return };
        known.changed_us = known.changed_us.max(changed_us);
        let before = known.state.main_pid;
        change(&mut known.state);
        let pid = known.state.main_pid;
        if before != pid {
            (self.tell)(Interest::MainPid { unit: name.to_owned(), pid });
        }
    }

    pub(super) fn entry(&mut self, name: &str, path: &str) -> Option<&mut Known> {
        if !self.units.contains_key(name) && self.units.len() >= UNITS_MAX {
            if !self.full {
                self.full = true;
                let reason = format!("more than {UNITS_MAX} units");
                self.observer.blinded(v1::Source::Unit, "further units", &reason, "");
            }
            return None;
        }
        let known = self.units.entry(name.to_owned()).or_insert_with(|| Known {
            path: path.to_owned(),
            state: v1::UnitState { unit: name.to_owned(), ..v1::UnitState::default() },
            changed_us: 0,
            said: None,
        });
        if !path.is_empty() {
            path.clone_into(&mut known.path);
        }
        Some(known)
    }

    /// Says the state of a unit, if it is another one than was said last. A unit that never mattered is forgotten.
    pub(super) fn say(&mut self, name: &str, at: Moment, existing: bool) {
        let Some(known) = self.units.get_mut(name) else { return };
        if known.said.is_none() && known.state.load != "masked" && !state::matters(&known.state) {
            if known.state.r#type == "oneshot" && self.oneshots.len() < UNITS_MAX {
                self.oneshots.insert(name.to_owned());
            } else if self.jobs.has(name) {
                // It is about to start.
                return;
            }
            self.units.remove(name);
            return;
        }
        known.state.existing = known.said.as_ref().is_some_and(|said| said.existing);
        if known.said.as_ref() == Some(&known.state) {
            return;
        }
        known.state.existing = existing;
        known.said = Some(known.state.clone());
        self.observer.observe_at(at, Kind::UnitState(known.state.clone()));
    }

    async fn changed(
        &mut self,
        bus: &Bus,
        came: Moment,
        path: &str,
        interface: &str,
        properties: &Properties,
    ) {
        let Some(name) = state::name_of_path(path) else { return };
        if !self.units.contains_key(&name) {
            let failed = properties
                .get("ActiveState")
                .is_some_and(|active| <&str>::try_from(&**active) == Ok("failed"));
            if self.oneshots.contains(&name) && !failed {
                return;
            }
            self.adopt(bus, &name, path, false).await;
        }
        let Some(known) = self.units.get(&name) else { return };
        let (before, last_us) = (known.state.active.clone(), known.changed_us);
        let changed_us = state::changed_us(properties);
        if changed_us.is_some_and(|us| us < last_us) {
            return;
        }
        self.update(&name, path, changed_us.unwrap_or(0), |unit| {
            state::apply(unit, interface, properties);
        });
        // The generic interface comes last and makes the change whole.
        if interface != UNIT_INTERFACE {
            return;
        }
        let is_new = changed_us.is_none_or(|us| us != last_us || us == 0);
        let at = changed_us.filter(|us| is_new && *us > 0).unwrap_or(came.boottime_us);
        let at = came.at_boottime(at.min(came.boottime_us));
        let after = self.units.get(&name).map(|known| known.state.active.clone());
        let after = after.unwrap_or_default();
        self.jobs.moved(&name, &before, &after);
        // A start begins with the new process under the old state: half a change, the other half follows.
        if is_new || matches!(after.as_str(), "active" | "reloading") {
            self.say(&name, at, false);
        }
        let begins = matches!(after.as_str(), "activating" | "active")
            && matches!(before.as_str(), "inactive" | "failed");
        if begins && self.units.contains_key(&name) {
            // A new start may have brought new settings.
            self.adopt(bus, &name, path, false).await;
            self.say(&name, came.at_boottime(at.boottime_us + 1), false);
        }
    }

    async fn job_new(&mut self, bus: &Bus, came: Moment, id: u32, job_path: &str, unit: &str) {
        if self.oneshots.contains(unit) {
            return;
        }
        let restart = self.units.get(unit).filter(|known| known.state.sub == "auto-restart");
        // Who asked waits only as long as the job lasts: look there first.
        let (by, kind) = match restart {
            Some(known) => (format!("systemd (Restart={})", known.state.restart), "restart"),
            None => {
                let by = asker::find(&self.roots.proc, &self.roots.root, unit).unwrap_or_default();
                let kind = job::kind_of_command(&by);
                (by, kind)
            }
        };
        let properties = bus.properties(job_path, JOB_INTERFACE).await.unwrap_or_default();
        let told = properties.get("JobType").and_then(|kind| <&str>::try_from(&**kind).ok());
        // A restart shows as start once its first half is over, so the command knows better.
        let kind = if kind.is_empty() { told.unwrap_or_default() } else { kind };
        self.jobs.begin(id, Job::new(unit, kind, by.clone()));
        if !self.units.contains_key(unit) {
            let Some(path) = state::path_of_name(unit) else { return };
            self.adopt(bus, unit, &path, false).await;
        }
        match self.units.get(unit) {
            Some(known)
                if !matches!(known.state.r#type.as_str(), "" | "oneshot")
                    || known.said.is_some() =>
            {
                self.observer.observe_at(
                    came,
                    Kind::UnitJob(v1::UnitJob {
                        unit: unit.to_owned(),
                        job: kind.to_owned(),
                        result: String::new(),
                        by,
                    }),
                );
            }
            _ => {}
        }
    }

    fn job_removed(&mut self, came: Moment, id: u32, unit: &str, result: String) {
        let active = self.units.get(unit).map(|known| known.state.active.as_str());
        let job = self.jobs.end(id, &result, active.unwrap_or_default());
        if active.is_none() {
            return;
        }
        self.observer.observe_at(
            came,
            Kind::UnitJob(v1::UnitJob { unit: unit.to_owned(), job: job.kind, result, by: job.by }),
        );
    }
}
