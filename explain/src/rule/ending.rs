//! How the process that served ended.

use why502_proto::v1::{
    AppEvent, AppServerEvent, CrashReported, Source, UnitStopTimedOut, UnitWatchdogTimeout,
};

use super::Rule;
use super::death::{Ended, Oom, ended, is_main_end, oom};
use super::process::by_whom;
use super::words::clock;
use crate::Seen;
use crate::effect::Effect;
use crate::snapshot::{Planned, SIGABRT, SIGKILL, Said, Snapshot, signal_name};
use crate::verdict::{Cause, Confidence, Verdict, blind};

/// Signals that a process brings upon itself (signal(7)): ILL, TRAP, ABRT, BUS, FPE, SEGV, SYS.
const CRASH_SIGNALS: [u32; 7] = [4, 5, 6, 7, 8, 11, 31];
/// Words about an end (core dump, log line, Result=) come within this of it.
const WORDS_NEAR_US: i64 = 5_000_000;
/// journald wakes its readers 0.4 s late, and words take a little more.
const WORDS_TOLD_US: i64 = 1_200_000;
/// A new version that cannot start says so within this of the restart; later its failure corrects the answer.
const RESTART_SETTLES_US: i64 = 1_500_000;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "process.watchdog_killed",
        summary: "systemd killed the service because it did not answer its watchdog",
        doc: "Like a crash by SIGABRT (or SIGKILL, with WatchdogSignal=), after WatchdogSec= of silence; \
                systemd says Result=watchdog.",
        check: "systemctl show -p WatchdogUSec,Result {unit}",
        fix: "find what blocks {unit} longer than its WatchdogSec=, or raise it",
        applies_to: is_main_end,
        judge: watchdog_killed,
    },
    Rule {
        id: "runtime.heap_exhausted",
        summary: "the language runtime's own heap is full (V8, JVM)",
        doc: "The process aborts (134) or exits while its cgroup is not at its limit; the runtime says so on \
                stderr. The kernel says nothing.",
        check: "journalctl -u {unit} -g 'heap|OutOfMemory' -n 20",
        fix: "raise the runtime's heap limit (--max-old-space-size, -Xmx) within the memory limit of {unit}, or find \
              the leak",
        applies_to: super::death::is_end,
        judge: heap_exhausted,
    },
    Rule {
        id: "process.crashed.signal",
        summary: "the main process crashed",
        doc: "Requests in flight are closed or reset, then connections are refused until it is back. SIGSEGV and \
                its like leave a line of the kernel; abort() leaves none.",
        check: "coredumpctl info {pid}",
        fix: "look at the core of {comm} and at what was deployed last",
        applies_to: is_main_end,
        judge: crashed,
    },
    Rule {
        id: "process.killed_external",
        summary: "somebody killed the process: a person, a script, a deploy tool",
        doc: "Ended by SIGKILL or SIGTERM, while neither the OOM killer nor systemd did it. 137 alone does not tell.",
        check: "journalctl --since '{since}' --until '{time}' _COMM=sudo + _COMM=systemctl",
        fix: "find who killed {comm}: sudo, cron and deploy logs of {host} around {time}; an audit rule on kill(2) \
              would name it next time",
        applies_to: is_main_end,
        judge: killed_external,
    },
    Rule {
        id: "process.restarting",
        summary: "the service is being restarted, and nobody takes connections meanwhile",
        doc: "A short gap of refused connections and lost requests, with a restart job at its beginning.",
        check: "journalctl -u {unit} -n 30",
        fix: "close the gap: socket activation ({socket}) or SO_REUSEPORT handover, and drain before stopping \
              (KillMode=mixed)",
        applies_to: is_main_end,
        judge: restarting,
    },
];

fn watchdog_killed<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(ended) = ended(effect) else { return Verdict::NoSign };
    let Some(said) = watchdog(snapshot, ended) else { return Verdict::NoSign };
    let (unit, host) = (&ended.death.unit, ended.host);
    let what = format!("systemd killed {unit} on {host} because its watchdog got no answer");
    Cause::new(host, ended.death.at_us, Confidence::Proven, what.clone())
        .text(format!("{what} at {}.", clock(ended.death.at_us)))
        .because(ended.death.facts(snapshot))
        .because([said])
        .name("unit", unit)
        .explained()
}

/// systemd's own word that its watchdog did it.
fn watchdog<'a>(snapshot: &'a Snapshot, ended: Ended<'a>) -> Option<&'a Seen> {
    let (unit, at_us) = (&ended.death.unit, ended.death.at_us);
    let near = |us: i64| (us - at_us).abs() <= WORDS_NEAR_US;
    let said = snapshot
        .on::<UnitWatchdogTimeout>(ended.host)
        .find(|said| said.what.unit == *unit && near(said.at_us()));
    let state = || {
        snapshot
            .unit_states(ended.host, unit, at_us + WORDS_NEAR_US)
            .find(|state| near(state.at_us()) && state.what.result == "watchdog")
    };
    said.map(|said| said.seen).or_else(|| state().map(|state| state.seen))
}

fn app_event<'a>(
    snapshot: &'a Snapshot,
    ended: Ended<'a>,
    event: AppEvent,
) -> Option<Said<'a, AppServerEvent>> {
    let death = ended.death;
    snapshot.on::<AppServerEvent>(ended.host).find(|said| {
        let same = if said.what.unit.is_empty() {
            said.what.pid != 0 && said.what.pid == death.pid
        } else {
            said.what.unit == death.unit
        };
        same && said.what.event() == event && (said.at_us() - death.at_us).abs() <= WORDS_NEAR_US
    })
}

fn heap_exhausted<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(ended) = ended(effect) else { return Verdict::NoSign };
    let Some(said) = app_event(snapshot, ended, AppEvent::HeapExhausted) else {
        return Verdict::NoSign;
    };
    if ended.death.by_signal() == Some(SIGKILL) {
        return Verdict::NoSign;
    }
    let (service, host) = (ended.service(), ended.host);
    let what = format!("the {} heap of {service} on {host} was full", said.what.server);
    Cause::new(host, said.at_us(), Confidence::Proven, what.clone())
        .text(format!(
            "{what}: \"{}\", then {} {}.",
            said.what.text,
            ended.death.who(),
            ended.death.how()
        ))
        .because([said.seen])
        .because(ended.death.facts(snapshot))
        .name("unit", service)
        .explained()
}

fn crashed<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(ended) = ended(effect) else { return Verdict::NoSign };
    let (death, host) = (ended.death, ended.host);
    let signal = death.by_signal().filter(|signal| CRASH_SIGNALS.contains(signal));
    let Some(signal) = signal.or(death.signal.filter(|_| death.core)) else {
        return Verdict::NoSign;
    };
    if let Some(said) = watchdog(snapshot, ended) {
        let text = "systemd sent the signal itself: its watchdog got no answer.".to_owned();
        return Verdict::RuledOut { by: vec![said], text };
    }
    if signal == SIGABRT
        && let Some(said) = app_event(snapshot, ended, AppEvent::HeapExhausted)
    {
        let text = "the runtime aborted because its heap was full.".to_owned();
        return Verdict::RuledOut { by: vec![said.seen], text };
    }
    // abort() is also how a runtime ends whose heap is full, and it says so a moment later.
    let waits = snapshot.now_us().saturating_sub(death.at_us) < WORDS_TOLD_US;
    let sight = snapshot.sight(host, Source::Journal, death.at_us);
    if signal == SIGABRT && waits && sight.seeing().is_some() {
        let told = format!("what {} said before it aborted", ended.service());
        return Verdict::Undecided { missing: vec![blind(host, Source::Journal, sight, &told)] };
    }
    let report = snapshot.on::<CrashReported>(host).find(|report| {
        (report.what.pid == death.pid || report.what.pid == 0)
            && (report.what.unit.is_empty() || report.what.unit == death.unit)
            && (report.at_us() - death.at_us).abs() <= WORDS_NEAR_US
    });
    let what = format!("{} on {host} crashed with {}", ended.service(), signal_name(signal));
    let words = report.map(|report| format!(" \"{}\"", report.what.text)).unwrap_or_default();
    let text = format!("{what} at {}: {} died.{words}", clock(death.at_us), death.who());
    let mut cause = Cause::new(host, death.at_us, Confidence::Proven, what)
        .text(text)
        .because(death.facts(snapshot))
        .because(report.map(|report| report.seen))
        .name("comm", if death.comm.is_empty() { ended.service() } else { death.comm.clone() })
        .name("pid", death.pid.to_string());
    if death.pid == 0 {
        cause = cause.check("coredumpctl list");
    }
    cause.explained()
}

fn killed_external<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(ended) = ended(effect) else { return Verdict::NoSign };
    let (death, host) = (ended.death, ended.host);
    if !death.how_known() {
        let told = format!("how {} ended", death.who());
        let sight = snapshot.sight(host, Source::Process, death.at_us);
        return Verdict::Undecided { missing: vec![blind(host, Source::Process, sight, &told)] };
    }
    let Some(signal) = death.by_signal().filter(|signal| !CRASH_SIGNALS.contains(signal)) else {
        return Verdict::NoSign;
    };
    let mut oom_free = None;
    if signal == SIGKILL
        || snapshot
            .unit_state(host, &death.unit, death.at_us)
            .is_some_and(|s| s.what.oom_policy == "stop")
    {
        match oom(snapshot, ended) {
            Oom::Killed { kills, .. } => {
                let by = kills.iter().map(|kill| kill.seen).collect();
                let text = format!("{} was killed for lack of memory.", death.who());
                return Verdict::RuledOut { by, text };
            }
            Oom::Undecided(blind) if signal == SIGKILL => {
                return Verdict::Undecided { missing: vec![blind] };
            }
            Oom::Undecided(_) => {}
            Oom::No { proof } => oom_free = Some(proof),
        }
    }
    if let Some(by) = systemd_did(snapshot, ended) {
        let text = "systemd sent the signal itself.".to_owned();
        return Verdict::RuledOut { by: vec![by], text };
    }
    if !death.unit.is_empty()
        && let Some(blind) = snapshot.first_blind(
            host,
            &[Source::Unit],
            death.at_us,
            &format!("whether systemd stopped {}", death.unit),
        )
    {
        return Verdict::Undecided { missing: vec![blind] };
    }
    let name = signal_name(signal);
    let what = format!("somebody killed {} on {host} with {name}", ended.service());
    let text = format!(
        "{what} at {}: {} was ended, and neither systemd nor the OOM killer did it. Who did is not known.",
        clock(death.at_us),
        death.who()
    );
    Cause::new(host, death.at_us, Confidence::Proven, what)
        .text(text)
        .because(death.facts(snapshot))
        .because(oom_free)
        .name("comm", ended.service())
        .name("host", host)
        .name("time", moment(death.at_us))
        .name("since", moment(death.at_us - 60_000_000))
        .explained()
}

/// "2026-11-24 12:03:05 UTC", as journalctl takes it.
fn moment(at_us: i64) -> String {
    let text = why502_proto::rfc3339(at_us);
    text.get(..19).map(|time| format!("{} UTC", time.replace('T', " "))).unwrap_or_default()
}

/// A fact that says that systemd itself sent the signal.
fn systemd_did<'a>(snapshot: &'a Snapshot, ended: Ended<'a>) -> Option<&'a Seen> {
    if let Some(planned) = snapshot.planned(ended.host, ended.death) {
        return Some(match planned {
            Planned::Stop(job) | Planned::Restart(job) => job.seen,
            Planned::Stopping(state) => state.seen,
        });
    }
    if let Some(said) = watchdog(snapshot, ended) {
        return Some(said);
    }
    let at_us = ended.death.at_us;
    let timed_out = snapshot.on::<UnitStopTimedOut>(ended.host).find(|said| {
        said.what.unit == ended.death.unit && (said.at_us() - at_us).abs() <= WORDS_NEAR_US
    });
    if let Some(said) = timed_out {
        return Some(said.seen);
    }
    snapshot
        .unit_states(ended.host, &ended.death.unit, at_us + WORDS_NEAR_US)
        .find(|state| {
            let near = state.at_us() >= at_us - WORDS_NEAR_US;
            let words = matches!(state.what.result.as_str(), "watchdog" | "timeout" | "oom-kill");
            let killing = state.at_us() <= at_us && state.what.sub.ends_with("sigkill");
            near && (words || killing)
        })
        .map(|state| state.seen)
}

/// A restart is the cause once the service listens again where it did, or once it has had its time: a new version that
/// cannot start, or listens elsewhere, shows that within it.
fn settled(snapshot: &Snapshot, ended: Ended<'_>, ordered_us: i64) -> bool {
    let death = ended.death;
    let again = snapshot.listeners(ended.host).iter().any(|l| {
        l.unit == death.unit && l.from_us > death.at_us && death.listeners.contains(&l.address)
    });
    let since_us = ordered_us.max(death.at_us);
    again || snapshot.now_us().saturating_sub(since_us) >= RESTART_SETTLES_US
}

fn restarting<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(ended) = ended(effect) else { return Verdict::NoSign };
    let Some(Planned::Restart(job)) = snapshot.planned(ended.host, ended.death) else {
        return Verdict::NoSign;
    };
    let (unit, host) = (&ended.death.unit, ended.host);
    if !settled(snapshot, ended, job.at_us()) {
        let told = format!("whether {unit} comes back as it was");
        let sight = snapshot.sight(host, Source::Process, ended.death.at_us);
        return Verdict::Undecided { missing: vec![blind(host, Source::Process, sight, &told)] };
    }
    let by = by_whom(&job.what.by);
    let what = format!("{unit} on {host} was restarted{by}");
    let again = snapshot.started_again(host, unit, job.at_us());
    let stem = unit.strip_suffix(".service").unwrap_or(unit);
    Cause::new(host, job.at_us(), Confidence::Proven, what.clone())
        .text(format!(
            "{what} at {}; until it listens again nobody takes its connections.",
            clock(job.at_us())
        ))
        .because([job.seen])
        .because(again.map(|job| job.seen))
        .because(ended.death.facts(snapshot))
        .name("unit", unit)
        .name("socket", format!("{stem}.socket"))
        .explained()
}
