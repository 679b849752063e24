//! What is known of units, and what was last said of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use why502_proto::{Kind, v1};

use super::asker;
use super::bus::{Bus, BusError, Listed, Signal};
use super::state::{self, Properties, UNIT_INTERFACE};
use crate::clock::Moment;
use crate::observe::Observer;
use crate::source::{Interest, Roots};

/// How many units are watched. Hosts with more have a generator gone wild; a fact says so.
const UNITS_MAX: usize = 4096;

/// How many jobs may be under way; a boot queues a few hundred.
const JOBS_MAX: usize = 4096;

/// Package managers reload systemd a dozen times in a row: look once, when it is quiet for so long.
const RELOAD_QUIET: Duration = Duration::from_millis(500);

/// A state that changed longer ago than this was not changed by the signal at hand.
const CHANGE_AGE_MAX_US: u64 = 10_000_000;

const SERVICE_INTERFACE: &str = "org.freedesktop.systemd1.Service";
const SOCKET_INTERFACE: &str = "org.freedesktop.systemd1.Socket";
const JOB_INTERFACE: &str = "org.freedesktop.systemd1.Job";

/// Settings that no signal carries.
const SETTINGS: &[&str] = &["Type", "Restart", "OOMPolicy", "MemoryMax"];

/// All units that matter, and who wants to hear of them.
pub(super) struct Watch<T> {
    roots: Roots,
    observer: Observer,
    tell: T,
    units: BTreeMap<String, Known>,
    /// Oneshot services: they do not serve, and timers start them often.
    oneshots: BTreeSet<String>,
    jobs: BTreeMap<u32, Job>,
    full: bool,
}

struct Known {
    path: String,
    state: v1::UnitState,
    said: Option<v1::UnitState>,
}

struct Job {
    kind: String,
    by: String,
}

impl<T: Fn(Interest)> Watch<T> {
    pub(super) fn new(roots: Roots, observer: Observer, tell: T) -> Self {
        Self {
            roots,
            observer,
            tell,
            units: BTreeMap::new(),
            oneshots: BTreeSet::new(),
            jobs: BTreeMap::new(),
            full: false,
        }
    }

    /// Tells what is, then what changes, until systemd cannot be asked any more.
    pub(super) async fn follow(
        &mut self,
        bus: &Bus,
        mut signals: mpsc::Receiver<Signal>,
        seen: &mut bool,
    ) -> BusError {
        self.jobs.clear();
        if let Err(error) = self.list(bus).await {
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
                        list_at = None;
                        if let Err(error) = self.list(bus).await {
                            return error;
                        }
                        continue;
                    }
                },
            };
            match signal {
                None => return BusError::Ended,
                Some(Signal::FilesChanged) => list_at = Some(Instant::now() + RELOAD_QUIET),
                Some(Signal::Changed { path, interface, properties }) => {
                    self.changed(bus, &path, &interface, &properties).await;
                }
                Some(Signal::JobNew { id, job_path, unit }) => {
                    self.job_new(bus, id, job_path.as_str(), &unit).await;
                }
                Some(Signal::JobRemoved { id, unit, result }) => {
                    self.job_removed(id, &unit, result);
                }
                Some(Signal::UnitRemoved { unit }) => {
                    self.oneshots.remove(&unit);
                    if self.units.contains_key(&unit) {
                        let file = bus.unit_file_state(&unit).await;
                        self.gone(&unit, file.as_deref());
                    }
                }
            }
        }
    }

    /// Looks at everything: at the start, after a new connection, and after systemd read its unit files anew.
    async fn list(&mut self, bus: &Bus) -> Result<(), BusError> {
        let files = bus.unit_files().await?;
        let mut listed = bus.list_units().await?;
        // Sockets first: they tell which inactive services are wanted.
        listed.sort_by(|a, b| {
            (a.name.ends_with(".service"), &a.name).cmp(&(b.name.ends_with(".service"), &b.name))
        });
        let names: BTreeSet<&str> = listed.iter().map(|unit| unit.name.as_str()).collect();
        let lost: Vec<String> =
            self.units.keys().filter(|name| !names.contains(name.as_str())).cloned().collect();
        for name in lost {
            let file = bus.unit_file_state(&name).await;
            self.gone(&name, file.as_deref());
        }
        for unit in &listed {
            self.look_at_listed(bus, unit, &files).await;
        }
        let mut masked: Vec<&String> = files
            .iter()
            .filter(|(name, (_, masked))| *masked && !names.contains(name.as_str()))
            .map(|(name, _)| name)
            .collect();
        masked.sort_unstable();
        for name in masked {
            self.masked(name, "");
        }
        Ok(())
    }

    async fn look_at_listed(
        &mut self,
        bus: &Bus,
        unit: &Listed,
        files: &HashMap<String, (String, bool)>,
    ) {
        let known = self.units.contains_key(&unit.name);
        let file = files.get(&unit.name);
        if unit.load == "masked" {
            if known || file.is_some_and(|(_, by_admin)| *by_admin) {
                self.masked(&unit.name, &unit.path);
            }
            return;
        }
        let is_socket = unit.name.ends_with(".socket");
        let wanted = file.is_some_and(|(state, _)| state.starts_with("enabled"))
            || self.units.values().any(|other| other.state.triggers.contains(&unit.name));
        if !known && !is_socket && unit.active == "inactive" && !wanted {
            return;
        }
        self.adopt(bus, &unit.name, &unit.path, false).await;
        self.say(&unit.name, Moment::now(), true);
    }

    /// A unit that its administrator masked, loaded or not.
    fn masked(&mut self, name: &str, path: &str) {
        let Some(known) = self.entry(name, path) else { return };
        known.state.load = "masked".into();
        known.state.enabled = "masked".into();
        if known.state.active.is_empty() {
            known.state.active = "inactive".into();
            known.state.sub = "dead".into();
        }
        self.say(name, Moment::now(), true);
    }

    /// Reads all properties of a unit and begins to watch it if it matters, or if a job `started` it.
    async fn adopt(&mut self, bus: &Bus, name: &str, path: &str, started: bool) {
        let interface =
            if name.ends_with(".socket") { SOCKET_INTERFACE } else { SERVICE_INTERFACE };
        let mut state = match self.units.get(name) {
            Some(known) => known.state.clone(),
            None => v1::UnitState {
                unit: name.to_owned(),
                load: "loaded".into(),
                ..v1::UnitState::default()
            },
        };
        // A unit that is gone before we ask stays known by its signals alone.
        let mut found = false;
        for interface in [interface, UNIT_INTERFACE] {
            if let Ok(properties) = bus.properties(path, interface).await {
                state::apply(&mut state, interface, &properties);
                found = true;
            }
        }
        if !self.units.contains_key(name) {
            let is_started = started && state.r#type != "oneshot" && state.load != "not-found";
            if found && !state::matters(&state) && !is_started {
                if state.r#type == "oneshot" && self.oneshots.len() < UNITS_MAX {
                    self.oneshots.insert(name.to_owned());
                }
                return;
            }
        }
        self.update(name, path, |known| *known = state);
    }

    /// Changes what is known of a unit, and tells of a new main process.
    fn update(&mut self, name: &str, path: &str, change: impl FnOnce(&mut v1::UnitState)) {
        let Some(known) = self.entry(name, path) else { return };
        let before = known.state.main_pid;
        change(&mut known.state);
        let pid = known.state.main_pid;
        if before != pid {
            (self.tell)(Interest::MainPid { unit: name.to_owned(), pid });
        }
    }

    fn entry(&mut self, name: &str, path: &str) -> Option<&mut Known> {
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
            said: None,
        });
        if !path.is_empty() {
            path.clone_into(&mut known.path);
        }
        Some(known)
    }

    /// Says the state of a unit, if it is another one than was said last.
    fn say(&mut self, name: &str, at: Moment, existing: bool) {
        let Some(known) = self.units.get_mut(name) else { return };
        known.state.existing = known.said.as_ref().is_some_and(|said| said.existing);
        if known.said.as_ref() == Some(&known.state) {
            return;
        }
        known.state.existing = existing;
        known.said = Some(known.state.clone());
        self.observer.observe_at(at, Kind::UnitState(known.state.clone()));
    }

    async fn changed(&mut self, bus: &Bus, path: &str, interface: &str, properties: &Properties) {
        let Some(name) = state::name_of_path(path) else { return };
        if !self.units.contains_key(&name) {
            let failed = properties
                .get("ActiveState")
                .is_some_and(|active| <&str>::try_from(&**active) == Ok("failed"));
            if self.oneshots.contains(&name) && !failed {
                return;
            }
            self.adopt(bus, &name, path, false).await;
            if !self.units.contains_key(&name) {
                return;
            }
        }
        let before = self.units.get(&name).map(|known| known.state.active.clone());
        self.update(&name, path, |known| state::apply(known, interface, properties));
        // The generic interface comes last and makes the change whole.
        if interface != UNIT_INTERFACE {
            return;
        }
        let now = Moment::now();
        let at = state::changed_us(properties)
            .filter(|us| now.boottime_us.saturating_sub(*us) < CHANGE_AGE_MAX_US)
            .map_or(now, |us| now.at_boottime(us.min(now.boottime_us)));
        self.say(&name, at, false);
        let active = self.units.get(&name).map_or("", |known| known.state.active.as_str());
        let begins = matches!(active, "activating" | "active")
            && matches!(before.as_deref(), Some("inactive" | "failed"));
        if begins {
            self.refresh_settings(bus, &name, path).await;
        }
    }

    /// Reads what a new start may have brought and no signal tells.
    async fn refresh_settings(&mut self, bus: &Bus, name: &str, path: &str) {
        if !name.ends_with(".service") {
            return;
        }
        let Ok(mut properties) = bus.properties(path, SERVICE_INTERFACE).await else { return };
        properties.retain(|name, _| SETTINGS.contains(&name.as_str()));
        self.update(name, path, |known| state::apply(known, SERVICE_INTERFACE, &properties));
        self.say(name, Moment::now(), false);
    }

    async fn job_new(&mut self, bus: &Bus, id: u32, job_path: &str, unit: &str) {
        let job = bus.properties(job_path, JOB_INTERFACE).await.unwrap_or_default();
        let text = |name: &str| job.get(name).and_then(|v| <&str>::try_from(&**v).ok());
        if !self.units.contains_key(unit) && !self.oneshots.contains(unit) {
            let Some(path) = state::path_of_name(unit) else { return };
            self.adopt(bus, unit, &path, true).await;
            self.say(unit, Moment::now(), false);
        }
        let Some(known) = self.units.get(unit) else { return };
        let by = if known.state.sub == "auto-restart" {
            format!("systemd (Restart={})", known.state.restart)
        } else {
            asker::find(&self.roots.proc, &self.roots.root, unit).unwrap_or_default()
        };
        let kind = text("JobType").unwrap_or_default().to_owned();
        self.observer.observe(Kind::UnitJob(v1::UnitJob {
            unit: unit.to_owned(),
            job: kind.clone(),
            result: String::new(),
            by: by.clone(),
        }));
        if self.jobs.len() < JOBS_MAX {
            self.jobs.insert(id, Job { kind, by });
        }
    }

    fn job_removed(&mut self, id: u32, unit: &str, result: String) {
        let job = self.jobs.remove(&id);
        let Some(known) = self.units.get(unit) else { return };
        let mut job = job.unwrap_or_else(|| Job { kind: String::new(), by: String::new() });
        // The job was over before it could be asked for its type. Only a stop succeeds into this state.
        if job.kind.is_empty() && result == "done" && known.state.active == "inactive" {
            job.kind = "stop".into();
        }
        self.observer.observe(Kind::UnitJob(v1::UnitJob {
            unit: unit.to_owned(),
            job: job.kind,
            result,
            by: job.by,
        }));
    }

    /// systemd forgot the unit. A unit file that is still there says that it can be started again.
    fn gone(&mut self, name: &str, file: Option<&str>) {
        self.update(name, "", |state| {
            state.active = "inactive".into();
            state.sub = "dead".into();
            state.main_pid = 0;
            state.load = match file {
                None => "not-found",
                Some(file) if file.starts_with("masked") => "masked",
                Some(_) => "loaded",
            }
            .into();
            state.enabled = file.unwrap_or_default().to_owned();
        });
        self.say(name, Moment::now(), false);
        if file.is_none() {
            self.units.remove(name);
        }
    }
}
