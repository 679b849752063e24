//! What rules about ends of processes share: which process an effect speaks of, and whether memory was why.

use why502_proto::v1::{OomKill, OomScope, Source};

use crate::effect::{Effect, Role};
use crate::snapshot::{Death, Said, Snapshot};
use crate::verdict::{Blind, Confidence, blind};

/// The kernel's line comes before the death, a counter up to a second after it; stamps differ by as much.
const OOM_NEAR_US: i64 = 2_000_000;
/// Until so long after a SIGKILL a counter may still follow. Longer would keep the right answer back in the
/// common case.
const OOM_SETTLE_US: i64 = 700_000;
/// With OOMPolicy=stop systemd stops what is left of the unit: its main process ends by SIGTERM within this.
const OOM_POLICY_US: i64 = 10_000_000;

/// A process that ended, on its host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ended<'a> {
    pub(super) host: &'a str,
    pub(super) death: &'a Death,
    pub(super) role: Role,
}

impl Ended<'_> {
    /// "api.service", else the process.
    pub(super) fn service(&self) -> String {
        if self.death.unit.is_empty() { self.death.who() } else { self.death.unit.clone() }
    }
}

pub(super) fn ended<'a>(effect: &Effect<'a>) -> Option<Ended<'a>> {
    match *effect {
        Effect::Down { host, death: Some(death), .. } => {
            Some(Ended { host, death, role: Role::Main })
        }
        Effect::Ended { host, death, role, .. } => Some(Ended { host, death, role }),
        _ => None,
    }
}

pub(super) fn is_end(effect: &Effect<'_>) -> bool {
    matches!(effect, Effect::Down { .. } | Effect::Ended { .. })
}

/// A main process that ended, not a worker.
pub(super) fn is_main_end(effect: &Effect<'_>) -> bool {
    is_end(effect) && !matches!(effect, Effect::Ended { role: Role::Worker, .. })
}

/// Whether a lack of memory ended a process.
#[derive(Clone, Debug)]
pub(super) enum Oom<'a> {
    Killed {
        kills: Vec<Said<'a, OomKill>>,
        confidence: Confidence,
    },
    /// Who counts kills saw none.
    No {
        proof: &'a crate::Seen,
    },
    /// Who counts kills did not see, or may not have told yet.
    Undecided(Blind),
}

/// Unit of the victim.
pub(super) fn victim_unit(kill: &OomKill) -> &str {
    if !kill.unit.is_empty() {
        return &kill.unit;
    }
    let part = kill.cgroup.rsplit('/').find(|part| part.ends_with(".service"));
    part.unwrap_or_default()
}

pub(super) fn oom<'a>(snapshot: &'a Snapshot, ended: Ended<'a>) -> Oom<'a> {
    let death = ended.death;
    let kills: Vec<Said<'a, OomKill>> = snapshot
        .on::<OomKill>(ended.host)
        .filter(|kill| near(snapshot, ended, kill))
        .filter_map(|kill| tied(snapshot, ended, kill).map(|_| kill))
        .collect();
    let surest = kills.iter().filter_map(|kill| tied(snapshot, ended, *kill)).max();
    if let Some(confidence) = surest {
        return Oom::Killed { kills, confidence };
    }
    let told = format!("whether the OOM killer ended {}", death.who());
    let sight = snapshot.sight(ended.host, Source::Memory, death.at_us);
    match sight.seeing() {
        Some(_) if snapshot.now_us() - death.at_us < OOM_SETTLE_US => {
            Oom::Undecided(blind(ended.host, Source::Memory, sight, &told))
        }
        Some(proof) => Oom::No { proof },
        None => Oom::Undecided(blind(ended.host, Source::Memory, sight, &told)),
    }
}

fn near<'a>(snapshot: &'a Snapshot, ended: Ended<'a>, kill: &Said<'a, OomKill>) -> bool {
    let after = kill.at_us() - ended.death.at_us;
    let policy = ended.role != Role::Worker
        && snapshot
            .unit_state(ended.host, &ended.death.unit, ended.death.at_us + OOM_NEAR_US)
            .is_some_and(|state| {
                state.what.oom_policy == "stop" || state.what.result == "oom-kill"
            });
    let before = if policy { OOM_POLICY_US } else { OOM_NEAR_US };
    -before <= after && after <= OOM_NEAR_US
}

/// How surely this kill is the end of this process. The kernel also kills helpers of a unit whose main process
/// lives on; and where a host is a guest of another the kernel's pids are not the host's, so a pid alone proves
/// nothing against a unit, nor for it.
fn tied<'a>(
    snapshot: &'a Snapshot,
    ended: Ended<'a>,
    kill: Said<'a, OomKill>,
) -> Option<Confidence> {
    let (death, unit) = (ended.death, victim_unit(kill.what));
    let same_unit = !unit.is_empty() && unit == death.unit;
    let other_unit = !unit.is_empty() && !death.unit.is_empty() && unit != death.unit;
    if other_unit {
        return None;
    }
    let state = snapshot.unit_state(ended.host, &death.unit, death.at_us + OOM_NEAR_US);
    let systemd_says = same_unit && state.is_some_and(|state| state.what.result == "oom-kill");
    let stopped_for_it = same_unit
        && ended.role != Role::Worker
        && state.is_some_and(|state| state.what.oom_policy == "stop")
        && death.by_signal() == Some(crate::snapshot::SIGTERM);
    if systemd_says || stopped_for_it {
        return Some(Confidence::Proven);
    }
    if death.how_known() && death.by_signal() != Some(crate::snapshot::SIGKILL) {
        return None;
    }
    let pid = kill.what.pid;
    if pid != 0 && pid == death.pid {
        let named = same_unit || death.unit.is_empty() || kill.what.cgroup.is_empty();
        return Some(if named { Confidence::Proven } else { Confidence::Likely });
    }
    if !same_unit {
        return None;
    }
    if pid == 0 {
        // A counter of the unit moved. If another process of the unit was killed at that moment, it may have been that.
        let others = others_killed(snapshot, ended, kill);
        let enough = kill.what.count.max(1) > others;
        return Some(if enough { Confidence::Proven } else { Confidence::Likely });
    }
    let known = snapshot.deaths(ended.host).iter().any(|other| other.pid == pid)
        || snapshot
            .on::<why502_proto::v1::ProcessStarted>(ended.host)
            .any(|started| started.what.pid == pid);
    let same_program = !kill.what.comm.is_empty() && kill.what.comm == death.comm;
    (!known && same_program).then_some(Confidence::Likely)
}

fn others_killed(snapshot: &Snapshot, ended: Ended<'_>, kill: Said<'_, OomKill>) -> u32 {
    let others = snapshot.deaths(ended.host).iter().filter(|other| {
        other.unit == ended.death.unit
            && other.pid != ended.death.pid
            && other.by_signal() == Some(crate::snapshot::SIGKILL)
            && (other.at_us - kill.at_us()).abs() <= OOM_NEAR_US
            && (other.at_us - ended.death.at_us).abs() <= OOM_NEAR_US
    });
    u32::try_from(others.count()).unwrap_or(u32::MAX)
}

/// Kills of one scope among them.
pub(super) fn of_scope<'a>(kills: &[Said<'a, OomKill>], scope: OomScope) -> Vec<Said<'a, OomKill>> {
    let scoped = |kill: &&Said<'a, OomKill>| match kill.what.scope() {
        // A counter of a cgroup that does not tell whose limit it was.
        OomScope::Unspecified => scope == OomScope::Cgroup,
        own => own == scope,
    };
    kills.iter().filter(scoped).copied().collect()
}
