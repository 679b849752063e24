//! Units: what systemd did with them, and whether they ran at a moment.

use why502_proto::v1;

use super::{Death, Said, Seen, Snapshot};

/// Deaths of one unit that follow each other within this belong to one series: the longest
/// RestartSec= in common use is 30 s.
const SERIES_GAP_US: i64 = 60_000_000;
/// A stop job kills what did not end by itself after TimeoutStopSec=, 90 s by default.
const STOP_TIMEOUT_US: i64 = 95_000_000;
/// systemd's own facts come this late: D-Bus signals of one transaction are held back for some 100
/// ms.
const UNIT_LAG_US: i64 = 1_000_000;
/// How long systemd may take from the order to the death when nothing resists, and how far stamps
/// differ.
const ORDER_SLACK_US: i64 = 500_000;
/// Lifetimes are told in milliseconds, and two sources date two ends.
const LIFETIME_UNIT_US: i64 = 5_000;

/// An end is dated when it is read, on a busy host some 10 ms late.
const DATED_LATE_US: i64 = 100_000;

/// Whether a unit's main process runs.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Run<'a> {
    /// Since this fact.
    Up { since_us: i64, pid: u32, proof: &'a Seen },
    /// systemd waits for something before it runs the main process, or for it to say that it is
    /// ready.
    Starting { since_us: i64, proof: &'a Seen },
    /// It ended, if its end was seen.
    Down { death: Option<&'a Death>, proof: Option<&'a Seen> },
    /// Nothing is known of it.
    Unknown,
}

/// An order to systemd that ended a process.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Planned<'a> {
    Stop(Said<'a, v1::UnitJob>),
    Restart(Said<'a, v1::UnitJob>),
    /// systemd was stopping it; who asked was not seen.
    Stopping(Said<'a, v1::UnitState>),
}

impl Snapshot {
    pub(crate) fn unit_states<'a>(
        &'a self,
        host: &str,
        unit: &str,
        until_us: i64,
    ) -> impl DoubleEndedIterator<Item = Said<'a, v1::UnitState>> {
        self.on::<v1::UnitState>(host)
            .filter(move |state| state.what.unit == unit && state.at_us() <= until_us)
    }

    /// The unit's last state until then.
    pub(crate) fn unit_state<'a>(
        &'a self,
        host: &str,
        unit: &str,
        until_us: i64,
    ) -> Option<Said<'a, v1::UnitState>> {
        self.unit_states(host, unit, until_us).next_back()
    }

    /// Ends of the unit's main processes until then, oldest first.
    pub(crate) fn main_deaths<'a>(
        &'a self,
        host: &str,
        unit: &str,
        until_us: i64,
    ) -> impl DoubleEndedIterator<Item = &'a Death> {
        self.deaths(host)
            .iter()
            .filter(move |death| death.main && death.unit == unit && death.at_us <= until_us)
    }

    /// Did the unit's main process run at `at_us`?
    pub(crate) fn run<'a>(&'a self, host: &str, unit: &str, at_us: i64, late_us: i64) -> Run<'a> {
        let death = self.main_deaths(host, unit, late_us).next_back();
        let state = self.unit_state(host, unit, at_us);
        let after_death = |us: i64| death.is_none_or(|death| us > death.at_us);
        let lapsed = self.told_anew(host, v1::Source::Process, at_us);
        let lapsed_us = lapsed.map_or(i64::MIN, |(since_us, _)| since_us);
        let started = self
            .on::<v1::ProcessStarted>(host)
            .filter(|start| start.what.unit == unit && start.at_us() <= at_us)
            .filter(|start| start.at_us() >= lapsed_us)
            .filter(|start| !self.ended(host, start.what, at_us))
            .find(|start| after_death(start.at_us()));
        // What runs before the main process does (ExecStartPre=) is of the unit too.
        let waits = |state: &Said<'a, v1::UnitState>| {
            state.what.active == "activating"
                && state.what.sub != "auto-restart"
                && state.what.main_pid == 0
                && after_death(state.at_us())
        };
        let starting = state.filter(waits);
        let started =
            started.filter(|start| starting.is_none_or(|state| state.at_us() < start.at_us()));
        if let Some(start) = started {
            let since_us = if start.what.existing { i64::MIN } else { start.at_us() };
            return Run::Up { since_us, pid: start.what.pid, proof: start.seen };
        }
        let Some(state) = state else {
            return death
                .map_or(Run::Unknown, |death| Run::Down { death: Some(death), proof: None });
        };
        // systemd has forgotten it: a unit that is stopped and that nothing refers to.
        if let Some((since_us, proof)) = self.told_anew(host, v1::Source::Unit, at_us)
            && state.at_us() < since_us
        {
            return Run::Down { death, proof: Some(proof) };
        }
        let what = state.what;
        let dead_pid = death.map_or(0, |death| death.pid);
        let alive = what.main_pid != 0
            && what.main_pid != dead_pid
            && matches!(what.active.as_str(), "active" | "activating" | "reloading");
        // It names another process than the one that ended: a busy host may date that end too late.
        if alive && after_death(state.at_us().saturating_add(DATED_LATE_US)) {
            let since = self.first_with_pid(host, unit, what.main_pid, at_us).unwrap_or(state);
            let since_us = if since.what.existing { i64::MIN } else { since.at_us() };
            return Run::Up { since_us, pid: what.main_pid, proof: since.seen };
        }
        if waits(&state) {
            return Run::Starting { since_us: state.at_us(), proof: state.seen };
        }
        if what.active == "active" && death.is_none() {
            return Run::Up { since_us: i64::MIN, pid: what.main_pid, proof: state.seen };
        }
        Run::Down { death, proof: Some(state.seen) }
    }

    /// Since when an agent has told everything of this source anew, and its word for that: what was
    /// told before and not again is so no more.
    fn told_anew(&self, host: &str, source: v1::Source, at_us: i64) -> Option<(i64, &Seen)> {
        let started = self.on::<v1::AgentStarted>(host).rfind(|start| start.at_us() <= at_us)?;
        let seeing = self.on::<v1::SourceSeeing>(host).find(|seeing| {
            seeing.what.source() == source
                && seeing.what.scope.is_empty()
                && (started.at_us()..=at_us).contains(&seeing.at_us())
        })?;
        Some((started.at_us(), seeing.seen))
    }

    fn first_with_pid<'a>(
        &'a self,
        host: &str,
        unit: &str,
        pid: u32,
        until_us: i64,
    ) -> Option<Said<'a, v1::UnitState>> {
        self.unit_states(host, unit, until_us).find(|state| state.what.main_pid == pid)
    }

    fn ended(&self, host: &str, started: &v1::ProcessStarted, until_us: i64) -> bool {
        self.on::<v1::ProcessExited>(host).any(|exit| {
            let same_start = exit.what.started_us == 0
                || started.started_us == 0
                || exit.what.started_us == started.started_us;
            exit.what.pid == started.pid && same_start && exit.at_us() <= until_us
        })
    }

    /// The unit's deaths that belong together, up to `until_us`, oldest first.
    pub(crate) fn series<'a>(&'a self, host: &str, unit: &str, until_us: i64) -> Vec<&'a Death> {
        let mut series: Vec<&Death> = Vec::new();
        for death in self.main_deaths(host, unit, until_us).rev() {
            let next = series.last().map_or(until_us, |next| next.at_us);
            if !series.is_empty() && next - death.at_us > SERIES_GAP_US {
                break;
            }
            series.push(death);
        }
        series.reverse();
        series
    }

    /// The first of a series that was not planned, and did not end well.
    pub(crate) fn first_failure<'a>(
        &'a self,
        host: &str,
        series: &[&'a Death],
    ) -> Option<&'a Death> {
        let failed = |death: &&&Death| death.abnormal() && self.planned(host, death).is_none();
        series.iter().find(failed).copied()
    }

    /// The order to systemd that ended this process, if there was one.
    pub(crate) fn planned<'a>(&'a self, host: &str, death: &Death) -> Option<Planned<'a>> {
        if death.unit.is_empty() {
            return None;
        }
        let earliest = death.at_us - STOP_TIMEOUT_US;
        // Whoever is told to stop ends well, or by SIGTERM; only then may the order be told after
        // the end.
        let told = !death.abnormal() && death.how_known();
        let lag_us = if told { UNIT_LAG_US } else { 0 };
        let started_us = death
            .lifetime_ms
            .and_then(|ms| i64::try_from(ms).ok())
            .map_or(i64::MIN, |ms| death.at_us - ms * 1000);
        let job = self
            .on::<v1::UnitJob>(host)
            .filter(|job| job.what.unit == death.unit)
            .filter(|job| matches!(job.what.job.as_str(), "stop" | "restart" | "try-restart"))
            // The end of a job is told as well: what died between the two did not die of its end.
            .filter(|job| job.what.result.is_empty() || self.begin_of(host, job).is_none())
            // systemd's own Restart= is a job as well: it follows an end, and does not bring it
            // about.
            .filter(|job| !job.what.by.starts_with("systemd ("))
            .filter(|job| earliest <= job.at_us() && job.at_us() <= death.at_us + lag_us)
            // A process that was born of the job did not die of it.
            .filter(|job| job.at_us() + ORDER_SLACK_US >= started_us || started_us == i64::MIN)
            .filter(|job| !self.born_of(host, death, job, started_us))
            .find(|job| job.what.result != "canceled");
        if let Some(job) = job {
            let stop = job.what.job == "stop";
            return Some(if stop && self.started_again(host, &death.unit, job.at_us()).is_none() {
                Planned::Stop(job)
            } else {
                Planned::Restart(job)
            });
        }
        let before = self.unit_state(host, &death.unit, death.at_us - 1)?;
        let stopping = before.what.active == "deactivating"
            && (before.what.sub.starts_with("stop") || before.what.sub.starts_with("final"))
            && (before.what.main_pid == death.pid || death.pid == 0);
        stopping.then_some(Planned::Stopping(before))
    }

    /// The word of the job's beginning, of which this is the end.
    fn begin_of<'a>(
        &'a self,
        host: &str,
        end: &Said<'_, v1::UnitJob>,
    ) -> Option<Said<'a, v1::UnitJob>> {
        self.on::<v1::UnitJob>(host).rfind(|job| {
            job.what.unit == end.what.unit
                && job.what.job == end.what.job
                && job.what.result.is_empty()
                && job.at_us() <= end.at_us()
        })
    }

    /// The process began after the job did: the job started it.
    fn born_of(
        &self,
        host: &str,
        death: &Death,
        job: &Said<'_, v1::UnitJob>,
        started_us: i64,
    ) -> bool {
        if job.what.job == "stop" {
            return started_us != i64::MIN && started_us > job.at_us() + ORDER_SLACK_US;
        }
        let earlier = |earlier: &&Death| earlier.at_us >= job.at_us() - ORDER_SLACK_US;
        let mut earlier = self.main_deaths(host, &death.unit, death.at_us - 1).filter(earlier);
        if started_us == i64::MIN {
            // No age is known: the first death after the order is the old process's.
            return earlier.next().is_some();
        }
        // The old process is older than the order; the new one is younger, or at least than the old
        // one's end: the order may be heard of late.
        // A start may be told too old by a tick, and an end too late by some 10 ms on a busy host:
        // who was told to stop, or ended after the order, is the one that the order was for.
        let ordered =
            |old: &Death| old.at_us >= job.at_us() || (!old.abnormal() && old.how_known());
        started_us > job.at_us()
            || earlier.any(|old| {
                let slack_us = if ordered(old) { ORDER_SLACK_US } else { LIFETIME_UNIT_US };
                old.at_us <= started_us + slack_us
            })
    }

    /// A start job that followed a stop soon: together they are a restart.
    pub(crate) fn started_again<'a>(
        &'a self,
        host: &str,
        unit: &str,
        stopped_us: i64,
    ) -> Option<Said<'a, v1::UnitJob>> {
        self.on::<v1::UnitJob>(host).find(|job| {
            job.what.unit == unit
                && matches!(job.what.job.as_str(), "start" | "restart")
                && job.at_us() > stopped_us
                && job.at_us() - stopped_us <= SERIES_GAP_US
        })
    }
}
