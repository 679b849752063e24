//! What systemd made of a service that fails.

use why502_proto::v1::{
    AppEvent, AppServerEvent, Source, UnitLastWords, UnitRestartScheduled, UnitSpawnFailed,
    UnitStartFailed, UnitStartLimitHit,
};

use super::Rule;
use super::words::{clock, duration_ms};
use crate::Seen;
use crate::effect::{Effect, Role};
use crate::snapshot::{Death, Planned, Said, Snapshot, Window};
use crate::verdict::{Cause, Confidence, Verdict};

/// A service that ends this soon after its start did not serve: it could not start.
const SHORT_LIFE_MS: u64 = 10_000;
/// Two failures make a loop when the last process lived less than this.
const LOOP_LIFE_MS: u64 = 30_000;
/// Failures that make a loop.
const LOOP_DEATHS_MIN: usize = 2;
/// StartLimitBurst= by default.
const START_LIMIT_BURST: usize = 5;
/// Words about a failed start come within this of the end of the process.
const WORDS_NEAR_US: i64 = 5_000_000;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "systemd.start_limit_hit",
        summary: "systemd gave up: the service failed too often in too short a time",
        doc: "Connections stay refused; the unit is failed and systemd no longer restarts it. systemd 252 shows \
                Result=exit-code meanwhile: the message \"Start request repeated too quickly\" is the proof.",
        check: "systemctl status {unit}",
        fix: "mend why {unit} fails, then: systemctl reset-failed {unit} && systemctl start {unit}; a longer \
              RestartSec= keeps systemd from giving up",
        applies_to: |effect| matches!(effect, Effect::Down { .. }),
        judge: start_limit_hit,
    },
    Rule {
        id: "process.restart_loop",
        summary: "the service fails again and again, and is restarted each time",
        doc: "Refused connections, now and then a short success. The first failure tells more than the last.",
        check: "journalctl -u {unit} -n 50",
        fix: "look at the first failure of {unit} at {time}, not at the last",
        applies_to: |effect| matches!(effect, Effect::Down { .. }),
        judge: restart_loop,
    },
];

fn start_limit_hit<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Down { host, unit, during, .. } = *effect else { return Verdict::NoSign };
    if unit.is_empty() {
        return Verdict::NoSign;
    }
    let series = snapshot.series(host, unit, during.to_us);
    let Some((hit, confidence)) = gave_up(snapshot, host, unit, during, series.len()) else {
        return Verdict::NoSign;
    };
    let state = snapshot.unit_state(host, unit, during.to_us);
    let what = format!("systemd gave up on {unit} on {host}, which failed too often");
    let first = snapshot.first_failure(host, &series);
    let each = how_each(&series);
    let words = first.and_then(|first| last_words(snapshot, host, unit, first));
    let text = format!(
        "{what}: \"Start request repeated too quickly\" at {}.{each}{}",
        clock(hit.at_us),
        words.map(|words| quote(words)).unwrap_or_default()
    );
    let mut cause = Cause::new(host, hit.at_us, confidence, what)
        .text(text)
        .because([hit])
        .because(state.filter(|s| s.what.active == "failed").map(|s| s.seen))
        .because(series.iter().flat_map(|death| death.facts(snapshot)).take(8))
        .because(words.map(|words| words.seen))
        .name("unit", unit);
    if let Some(death) = first.or(series.first().copied()) {
        cause = cause.next(Effect::Ended { host, death, during, role: Role::InSeries });
    }
    cause.explained()
}

/// The fact that says so, unless the unit was started again since.
fn gave_up<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    unit: &str,
    during: Window,
    failures: usize,
) -> Option<(&'a Seen, Confidence)> {
    let state = snapshot.unit_state(host, unit, during.to_us);
    let said = snapshot
        .on::<UnitStartLimitHit>(host)
        .filter(|hit| hit.what.unit == unit && hit.at_us() <= during.to_us)
        .last();
    if let Some(said) = said {
        let since = state.is_some_and(|state| {
            state.at_us() > said.at_us() && matches!(state.what.active.as_str(), "active")
        });
        return (!since).then_some((said.seen, Confidence::Proven));
    }
    let state = state?;
    if state.what.result == "start-limit-hit" {
        return Some((state.seen, Confidence::Proven));
    }
    // The journal was not there to tell; but systemd does not leave such a unit alone for another reason.
    let blind = snapshot.sight(host, Source::Journal, during.at_us).seeing().is_none();
    let restarts = matches!(state.what.restart.as_str(), "always" | "on-failure" | "on-abnormal");
    let given_up = state.what.active == "failed" && restarts && failures >= START_LIMIT_BURST;
    (blind && given_up).then_some((state.seen, Confidence::Likely))
}

fn restart_loop<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Down { host, unit, during, .. } = *effect else { return Verdict::NoSign };
    if unit.is_empty() {
        return Verdict::NoSign;
    }
    let series = snapshot.series(host, unit, during.to_us);
    let failures = failures(snapshot, host, unit, during);
    let (Some(first), Some(last)) = (failures.first().copied(), failures.last()) else {
        return Verdict::NoSign;
    };
    let scheduled = snapshot
        .on::<UnitRestartScheduled>(host)
        .filter(|s| s.what.unit == unit && s.at_us() <= during.to_us)
        .filter(|s| s.at_us() >= first.at_us)
        .last();
    let short = last.lifetime_ms.is_none_or(|ms| ms < LOOP_LIFE_MS);
    if failures.len() < LOOP_DEATHS_MIN || !short {
        return Verdict::NoSign;
    }
    if gave_up(snapshot, host, unit, during, series.len()).is_some() {
        return Verdict::NoSign;
    }
    let what = format!(
        "{unit} on {host} fails again and again: {} times since {}",
        failures.len(),
        clock(first.at_us)
    );
    let words = last_words(snapshot, host, unit, first);
    let text =
        format!("{what}.{}{}", how_each(&failures), words.map(|w| quote(w)).unwrap_or_default());
    Cause::new(host, first.at_us, Confidence::Proven, what)
        .text(text)
        .because(failures.iter().flat_map(|death| death.facts(snapshot)).take(8))
        .because(scheduled.map(|s| s.seen))
        .because(words.map(|words| words.seen))
        .name("unit", unit)
        .name("time", clock(first.at_us))
        .next(Effect::Ended { host, death: first, during, role: Role::InSeries })
        .explained()
}

/// Main processes of the series that ended badly, and not by order.
fn failures<'a>(snapshot: &'a Snapshot, host: &str, unit: &str, during: Window) -> Vec<&'a Death> {
    let series = snapshot.series(host, unit, during.to_us);
    let failed = |death: &&Death| death.abnormal() && snapshot.planned(host, death).is_none();
    series.into_iter().filter(failed).collect()
}

fn how_each(series: &[&Death]) -> String {
    let Some(last) = series.last() else { return String::new() };
    let lived = last
        .lifetime_ms
        .map_or_else(String::new, |ms| format!(", {} after its start", duration_ms(ms)));
    format!(" The last of {} processes {}{lived}.", series.len(), last.how())
}

fn last_words<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    unit: &str,
    death: &Death,
) -> Option<Said<'a, UnitLastWords>> {
    snapshot.on::<UnitLastWords>(host).find(|words| {
        words.what.unit == unit
            && !words.what.lines.is_empty()
            && (words.at_us() - death.at_us).abs() <= WORDS_NEAR_US
    })
}

fn quote(words: Said<'_, UnitLastWords>) -> String {
    words.what.lines.last().map_or_else(String::new, |line| format!(" It said: \"{line}\"."))
}

/// What systemd could not do for the program, by the exit status of its own child (systemd.exec(5)).
fn exec_step(status: u32) -> Option<&'static str> {
    Some(match status {
        200 => "200/CHDIR: cannot change to WorkingDirectory=",
        203 => "203/EXEC: cannot execute the program of ExecStart=",
        204 => "204/MEMORY: no memory",
        209 => "209/STDOUT: cannot set up its output",
        216 => "216/GROUP: the group of Group= does not exist",
        217 => "217/USER: the user of User= does not exist",
        218 => "218/CAPABILITIES: cannot set its capabilities",
        226 => {
            "226/NAMESPACE: cannot set up its mount namespace (a path of ReadWritePaths= and the like is missing)"
        }
        238 => "238/STATE_DIRECTORY: cannot set up StateDirectory=",
        233 => "233/RUNTIME_DIRECTORY: cannot set up RuntimeDirectory=",
        240 => "240/LOGS_DIRECTORY: cannot set up LogsDirectory=",
        243 => "243/CREDENTIALS: cannot set up its credentials",
        200..=243 => {
            "systemd could not set up its surroundings (systemd.exec(5), exit status 200 to 243)"
        }
        _ => return None,
    })
}

/// Why a start failed, where somebody said it.
struct Reason<'a> {
    text: String,
    facts: Vec<&'a Seen>,
    /// Its address was in use.
    taken: bool,
}

/// `process.start_failed`
pub(super) fn start_failed<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let (host, unit, death, role) = match *effect {
        Effect::Down { host, unit, death, .. } => (host, unit, death, Role::Main),
        Effect::Ended { host, death, role, .. } => (host, death.unit.as_str(), Some(death), role),
        _ => return Verdict::NoSign,
    };
    if unit.is_empty() {
        return Verdict::NoSign;
    }
    let during = effect.during();
    if death.is_some_and(|death| snapshot.planned(host, death).is_some_and(not_restart)) {
        return Verdict::NoSign;
    }
    if death.is_some_and(|death| death.signal.is_some()) {
        return timed_out(snapshot, host, unit, death, during);
    }
    let Some(reason) = reason(snapshot, host, unit, death, during) else {
        // Somebody who reads the unit's log may know; we only know that it ended at once.
        let Some(death) = death.filter(|_| role != Role::InSeries) else { return Verdict::NoSign };
        // More than one failure is a loop's matter.
        if failures(snapshot, host, unit, during).len() >= LOOP_DEATHS_MIN {
            return Verdict::NoSign;
        }
        let short = death.lifetime_ms.is_some_and(|ms| ms < SHORT_LIFE_MS);
        let Some(status) = death.status.filter(|status| *status != 0 && short) else {
            return Verdict::NoSign;
        };
        if death.by_signal().is_some() {
            return Verdict::NoSign;
        }
        let lived = duration_ms(death.lifetime_ms.unwrap_or(0));
        let why = Reason {
            text: format!("it exited with status {status} after {lived}"),
            facts: Vec::new(),
            taken: false,
        };
        return failed(snapshot, (host, unit), Some(death), during, why);
    };
    failed(snapshot, (host, unit), death, during, reason)
}

fn not_restart(planned: Planned<'_>) -> bool {
    !matches!(planned, Planned::Restart(_))
}

fn failed<'a>(
    snapshot: &'a Snapshot,
    (host, unit): (&'a str, &'a str),
    death: Option<&'a Death>,
    during: Window,
    reason: Reason<'a>,
) -> Verdict<'a> {
    let at_us = death.map_or(during.at_us, |death| death.at_us);
    let words = death.and_then(|death| last_words(snapshot, host, unit, death));
    let what = format!("{unit} on {host} cannot start: {}", reason.text);
    let text = format!("{what} ({}).{}", clock(at_us), words.map(|w| quote(w)).unwrap_or_default());
    let mut cause = Cause::new(host, at_us, Confidence::Proven, what)
        .text(text)
        .because(reason.facts)
        .because(death.map(|death| death.facts(snapshot)).unwrap_or_default())
        .because(words.map(|words| words.seen))
        .name("unit", unit);
    if cause.evidence.is_empty() {
        cause.confidence = Confidence::Likely;
    }
    if reason.taken {
        cause = cause.next(Effect::PortTaken { host, unit, during });
    }
    cause.explained()
}

/// systemd killed it because it did not become ready in time.
fn timed_out<'a>(
    snapshot: &'a Snapshot,
    host: &'a str,
    unit: &'a str,
    death: Option<&'a Death>,
    during: Window,
) -> Verdict<'a> {
    let failed_job = snapshot.on::<UnitStartFailed>(host).find(|job| {
        job.what.unit == unit && job.what.result == "timeout" && job.at_us() <= during.to_us
    });
    let Some(job) = failed_job else { return Verdict::NoSign };
    let near = death.is_some_and(|death| (death.at_us - job.at_us()).abs() <= WORDS_NEAR_US);
    if !near {
        return Verdict::NoSign;
    }
    let text = "it was not ready within TimeoutStartSec=".to_owned();
    failed(
        snapshot,
        (host, unit),
        death,
        during,
        Reason { text, facts: vec![job.seen], taken: false },
    )
}

fn reason<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    unit: &str,
    death: Option<&'a Death>,
    during: Window,
) -> Option<Reason<'a>> {
    let at_us = death.map_or(during.at_us, |death| death.at_us);
    let near = |us: i64| {
        us <= during.to_us.max(at_us + WORDS_NEAR_US)
            && (death.is_none() || (us - at_us).abs() <= WORDS_NEAR_US)
    };
    let spawn =
        snapshot.on::<UnitSpawnFailed>(host).filter(|s| s.what.unit == unit && near(s.at_us()));
    if let Some(spawn) = spawn.last() {
        let text =
            format!("{} of {}: {}", spawn.what.step, spawn.what.executable, spawn.what.error);
        return Some(Reason { text, facts: vec![spawn.seen], taken: false });
    }
    if let Some(step) = death.and_then(|death| death.status).and_then(exec_step) {
        return Some(Reason { text: step.to_owned(), facts: Vec::new(), taken: false });
    }
    let app = snapshot.on::<AppServerEvent>(host).filter(|said| {
        let ours = said.what.unit == unit && near(said.at_us());
        ours && matches!(said.what.event(), AppEvent::BootFailed | AppEvent::AddressInUse)
    });
    if let Some(said) = app.last() {
        let text = format!("{} says \"{}\"", said.what.server, said.what.text);
        let taken = said.what.event() == AppEvent::AddressInUse || in_use(&said.what.text);
        return Some(Reason { text, facts: vec![said.seen], taken });
    }
    if let Some(words) = death.and_then(|death| last_words(snapshot, host, unit, death))
        && let Some(line) = words.what.lines.iter().find(|line| in_use(line))
    {
        return Some(Reason { text: format!("\"{line}\""), facts: vec![words.seen], taken: true });
    }
    if death.is_some() {
        return None;
    }
    never_ran(snapshot, host, unit, during)
}

fn in_use(line: &str) -> bool {
    let line = line.to_ascii_lowercase();
    line.contains("address already in use") || line.contains("eaddrinuse")
}

/// No process of it was seen at all, and systemd says why.
fn never_ran<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    unit: &str,
    during: Window,
) -> Option<Reason<'a>> {
    let state = snapshot.unit_state(host, unit, during.to_us)?;
    let load = state.what.load.as_str();
    if matches!(load, "not-found" | "error" | "bad-setting") {
        return Some(Reason {
            text: format!("its unit file is {load}"),
            facts: vec![state.seen],
            taken: false,
        });
    }
    let job = snapshot
        .on::<UnitStartFailed>(host)
        .filter(|job| job.what.unit == unit && job.at_us() <= during.to_us)
        .last()?;
    let text = match job.what.result.as_str() {
        "dependency" => "a unit that it needs failed".to_owned(),
        "timeout" => "it was not ready within TimeoutStartSec=".to_owned(),
        result => format!("its start job ended with \"{result}\""),
    };
    Some(Reason { text, facts: vec![job.seen, state.seen], taken: false })
}
