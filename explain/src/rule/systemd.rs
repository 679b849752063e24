//! What systemd made of a service that fails.

use why502_proto::v1::{Source, UnitLastWords, UnitRestartScheduled, UnitStartLimitHit};

use super::Rule;
use super::words::{clock, duration_ms};
use crate::Seen;
use crate::effect::{Effect, Role};
use crate::snapshot::{Death, Said, Snapshot, Window};
use crate::verdict::{Cause, Confidence, Verdict};

/// Two failures make a loop when the last process lived less than this.
const LOOP_LIFE_MS: u64 = 30_000;
/// Failures that make a loop.
pub(super) const LOOP_DEATHS_MIN: usize = 2;
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
        .rfind(|hit| hit.what.unit == unit && hit.at_us() <= during.to_us);
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
        .rfind(|s| s.at_us() >= first.at_us);
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
pub(super) fn failures<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    unit: &str,
    during: Window,
) -> Vec<&'a Death> {
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

pub(super) fn last_words<'a>(
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

pub(super) fn quote(words: Said<'_, UnitLastWords>) -> String {
    words.what.lines.last().map_or_else(String::new, |line| format!(" It said: \"{line}\"."))
}
