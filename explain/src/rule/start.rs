//! The service cannot start, and somebody says why.

use why502_proto::v1::{AppEvent, AppServerEvent, UnitSpawnFailed, UnitStartFailed};

use super::Rule;
use super::death::is_main_end;
use super::systemd::{LOOP_DEATHS_MIN, failures, last_words, quote};
use super::words::{clock, duration_ms};
use crate::Seen;
use crate::effect::{Effect, Role};
use crate::snapshot::{Death, Planned, Snapshot, Window};
use crate::verdict::{Cause, Confidence, Verdict};

/// A service that ends this soon after its start did not serve: it could not start.
const SHORT_LIFE_MS: u64 = 10_000;
/// Words about a failed start come within this of the end of the process.
const WORDS_NEAR_US: i64 = 5_000_000;

pub(super) const RULES: &[Rule] = &[Rule {
    id: "process.start_failed",
    summary: "the service cannot start",
    doc: "Connections are refused; systemd tells exit status 203/EXEC and the like, or the program says why \
                itself before it exits.",
    check: "systemctl status {unit}",
    fix: "mend what {unit} says, then: systemctl restart {unit}",
    applies_to: is_main_end,
    judge: start_failed,
}];

fn start_failed<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
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
    let mut spawn =
        snapshot.on::<UnitSpawnFailed>(host).filter(|s| s.what.unit == unit && near(s.at_us()));
    if let Some(spawn) = spawn.next_back() {
        let text =
            format!("{} of {}: {}", spawn.what.step, spawn.what.executable, spawn.what.error);
        return Some(Reason { text, facts: vec![spawn.seen], taken: false });
    }
    if let Some(step) = death.and_then(|death| death.status).and_then(exec_step) {
        return Some(Reason { text: step.to_owned(), facts: Vec::new(), taken: false });
    }
    let mut app = snapshot.on::<AppServerEvent>(host).filter(|said| {
        let ours = said.what.unit == unit && near(said.at_us());
        ours && matches!(said.what.event(), AppEvent::BootFailed | AppEvent::AddressInUse)
    });
    if let Some(said) = app.next_back() {
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
        201..=202 | 205..=243 => {
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
        .rfind(|job| job.what.unit == unit && job.at_us() <= during.to_us)?;
    let text = match job.what.result.as_str() {
        "dependency" => "a unit that it needs failed".to_owned(),
        "timeout" => "it was not ready within TimeoutStartSec=".to_owned(),
        result => format!("its start job ended with \"{result}\""),
    };
    Some(Reason { text, facts: vec![job.seen, state.seen], taken: false })
}
