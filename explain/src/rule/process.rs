//! The process that should serve does not run, does not yet, or stands still.

use why502_proto::v1::{
    AppEvent, AppServerEvent, CrashReported, ProcessResumed, ProcessStalled, Source, StallKind,
    UnitState, UnitStopTimedOut, UnitWatchdogTimeout,
};

use super::Rule;
use super::death::{Ended, Oom, ended, is_main_end, oom};
use super::owner::{Owner, owner};
use super::words::{between, clock, duration_ms};
use crate::Seen;
use crate::effect::Effect;
use crate::snapshot::{
    Death, Listening, Planned, Run, SIGABRT, SIGKILL, Said, Snapshot, Window, signal_name,
};
use crate::verdict::{Blind, Cause, Confidence, Verdict, blind};

/// Signals that a process brings upon itself (signal(7)): ILL, TRAP, ABRT, BUS, FPE, SEGV, SYS.
const CRASH_SIGNALS: [u32; 7] = [4, 5, 6, 7, 8, 11, 31];
/// A connection that was there is lost within this of the end of the process that held it.
const LOST_NEAR_US: i64 = 2_000_000;
/// Words about an end (core dump, log line, Result=) come within this of it.
const WORDS_NEAR_US: i64 = 5_000_000;
/// A process that has not bound its port after so long does not merely start.
const STARTING_MAX_US: i64 = 60_000_000;
/// A service that is restarted takes about so long to bind: only beyond it is its start the slow part.
const STARTING_NORMAL_US: i64 = 1_000_000;

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
        id: "process.start_failed",
        summary: "the service cannot start",
        doc: "Connections are refused; systemd tells exit status 203/EXEC and the like, or the program says why \
                itself before it exits.",
        check: "systemctl status {unit}",
        fix: "mend what {unit} says, then: systemctl restart {unit}",
        applies_to: is_main_end,
        judge: start_failed,
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
    Rule {
        id: "process.not_running",
        summary: "the service does not run",
        doc: "Connections are refused at once (or the unix socket is gone), and the unit is inactive or failed. \
                With an open port the process lives: then see the listener causes.",
        check: "systemctl status {unit}",
        fix: "systemctl start {unit}; systemctl enable {unit} if it is to survive a reboot",
        applies_to: |effect| {
            matches!(effect, Effect::NothingListens { .. } | Effect::ConnectionLost { .. })
        },
        judge: not_running,
    },
    Rule {
        id: "process.starting_slow",
        summary: "the process is up but does not listen yet",
        doc: "Connections are refused although the unit is active or activating.",
        check: "systemd-analyze blame; journalctl -u {unit} -n 30",
        fix: "let {unit} report when it is ready (Type=notify) and make deploys wait for it, or shorten what it does \
              before it binds its port",
        applies_to: |effect| matches!(effect, Effect::NothingListens { .. }),
        judge: starting_slow,
    },
    Rule {
        id: "process.hung.stopped",
        summary: "the process is stopped: SIGSTOP, a debugger, or a frozen cgroup",
        doc: "Connections are accepted by the kernel and nobody answers: header timeouts, then connect timeouts once \
                the accept queue is full.",
        check: "grep State /proc/{pid}/status",
        fix: "kill -CONT {pid}, and find who stopped it",
        applies_to: |effect| matches!(effect, Effect::Busy { .. } | Effect::NoAnswer { .. }),
        judge: hung_stopped,
    },
    Rule {
        id: "process.hung.blocked",
        summary: "the process is blocked in the kernel (state D)",
        doc: "Header timeouts; the process uses no CPU and cannot even be killed: disk or network file system.",
        check: "cat /proc/{pid}/stack",
        fix: "look at the disk or the network file system that pid {pid} waits for",
        applies_to: |effect| matches!(effect, Effect::Busy { .. } | Effect::NoAnswer { .. }),
        judge: hung_blocked,
    },
];

// ---------------------------------------------------------------------------- it does not run

fn not_running<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(place) = effect.place() else { return Verdict::NoSign };
    let Some(host) = place.host() else {
        return Verdict::Undecided { missing: vec![super::network::nobody_there(place)] };
    };
    let during = effect.during();
    if matches!(effect, Effect::ConnectionLost { .. }) {
        return ended_in_flight(snapshot, host, place.address, during);
    }
    let proof = match snapshot.listening(host, place.address, during) {
        Listening::Covered(listener) => {
            return Verdict::RuledOut {
                by: listener.opened(snapshot).into_iter().collect(),
                text: format!(
                    "{} on {host} listened on {} all the time.",
                    listener.owner(),
                    listener.address
                ),
            };
        }
        Listening::Gap { proof, .. } => Ok(proof),
        Listening::Unseen(sight) => {
            let told = format!("whether anything listened on {}", place.address.short());
            Err(blind(host, Source::Listener, sight, &told))
        }
    };
    let Some(owner) = owner(snapshot, host, place.address, during) else {
        let port = place.address.port();
        let elsewhere = snapshot.listeners(host).iter().any(|l| {
            l.open_at(during.at_us) && l.socket().is_some_and(|socket| socket.port() == port)
        });
        // Somebody serves that port, only not there: see the listener causes.
        if elsewhere && port != 0 {
            return Verdict::NoSign;
        }
        return never_seen(host, place.address.short(), proof, during);
    };
    if let (Err(blind), None) = (&proof, owner.death) {
        return Verdict::Undecided { missing: vec![blind.clone()] };
    }
    if owner.unit.is_empty() {
        return process_gone(snapshot, host, &owner, during);
    }
    unit_gone(snapshot, host, &owner, during, place.address.short())
}

fn never_seen<'a>(
    host: &str,
    short: String,
    proof: Result<&'a Seen, Blind>,
    during: Window,
) -> Verdict<'a> {
    match proof {
        Err(blind) => Verdict::Undecided { missing: vec![blind] },
        Ok(proof) => {
            let what = format!(
                "nothing has listened on {short} of {host} for as long as the agent has looked"
            );
            Cause::new(host, during.at_us, Confidence::Possible, what)
                .because([proof])
                .check(format!("ss -ltnp | grep '{short} '"))
                .fix(format!(
                    "start the service that should listen on {short}, or correct the port"
                ))
                .explained()
        }
    }
}

/// A process outside of units.
fn process_gone<'a>(
    snapshot: &'a Snapshot,
    host: &'a str,
    owner: &Owner<'a>,
    during: Window,
) -> Verdict<'a> {
    let Some(death) = owner.death else {
        let told = format!("whether pid {} still runs", owner.pid);
        let missing = snapshot.first_blind(host, &[Source::Process], during.at_us, &told);
        return missing
            .map_or(Verdict::NoSign, |blind| Verdict::Undecided { missing: vec![blind] });
    };
    let what = format!("{} on {host} {}", death.who(), death.how());
    Cause::new(host, death.at_us, Confidence::Proven, what.clone())
        .text(format!("{what} at {}; it is not a service of systemd.", clock(death.at_us)))
        .because(owner.facts.iter().copied())
        .because(death.facts(snapshot))
        .check(format!("ps -C '{}' -o pid,lstart,args", death.comm))
        .fix(format!("start {} again, best as a unit with Restart=on-failure", death.comm))
        .next(Effect::Down { host, unit: "", death: Some(death), during })
        .explained()
}

fn unit_gone<'a>(
    snapshot: &'a Snapshot,
    host: &'a str,
    owner: &Owner<'a>,
    during: Window,
    short: String,
) -> Verdict<'a> {
    let unit = owner.unit;
    let before = || snapshot.main_deaths(host, unit, during.at_us).next_back().or(owner.death);
    let (death, state) = match snapshot.run(host, unit, during.at_us, during.to_us) {
        // It has only just begun again, and a start takes its time: what ended it before is the question.
        Run::Up { since_us, .. } if just_began(before(), since_us, during) => (before(), None),
        Run::Up { proof, pid, .. } => {
            return Verdict::RuledOut {
                by: vec![proof],
                text: format!("{unit} on {host} ran then (pid {pid})."),
            };
        }
        Run::Starting { proof, .. } => {
            return Verdict::RuledOut {
                by: vec![proof],
                text: format!("{unit} on {host} was being started."),
            };
        }
        Run::Down { death, proof } => (death.or(owner.death), proof),
        Run::Unknown => (owner.death, None),
    };
    if death.is_none() && state.is_none() {
        let told = format!("whether {unit} ran");
        let missing =
            snapshot.first_blind(host, &[Source::Unit, Source::Process], during.at_us, &told);
        return missing
            .map_or(Verdict::NoSign, |blind| Verdict::Undecided { missing: vec![blind] });
    }
    let mut cause = down(snapshot, host, unit, death, during, owner.confidence);
    // Its listener's end, if it is the same story; else what made us think of this unit.
    cause.evidence.extend(owner.facts.iter().copied());
    let ended_us = death.map_or(i64::MIN, |death| death.at_us);
    cause.evidence.extend(state.filter(|state| state.at_us >= ended_us));
    let never = owner.listener.is_none() && owner.death.is_none();
    if never {
        cause.text.push_str(&format!(
            " It is the only service on {host} that fails; nothing was seen listening on {short}."
        ));
    }
    cause.explained()
}

fn just_began(before: Option<&Death>, since_us: i64, during: Window) -> bool {
    let up_us = during.at_us.saturating_sub(since_us);
    let gone = before.is_some_and(|death| since_us.saturating_sub(death.at_us) <= STARTING_MAX_US);
    up_us < STARTING_NORMAL_US && gone
}

/// Words and next question for a unit that does not run.
fn down<'a>(
    snapshot: &'a Snapshot,
    host: &'a str,
    unit: &'a str,
    death: Option<&'a Death>,
    during: Window,
    confidence: Confidence,
) -> Cause<'a> {
    let planned = death.and_then(|death| snapshot.planned(host, death));
    let state = snapshot.unit_state(host, unit, during.to_us);
    let at_us = death.map_or(during.at_us, |death| death.at_us);
    let next = Effect::Down { host, unit, death, during };
    let cause = |what: String, text: String| {
        Cause::new(host, at_us, confidence, what)
            .text(text)
            .because(death.map(|death| death.facts(snapshot)).unwrap_or_default())
            .name("unit", unit)
    };
    match (planned, death) {
        (Some(Planned::Stop(job)), _) => {
            let by = by_whom(&job.what.by);
            let what = format!("{unit} on {host} was stopped{by}");
            cause(what.clone(), format!("{what} at {}.", clock(job.at_us()))).because([job.seen])
        }
        (Some(Planned::Stopping(stopping)), _) => {
            let what = format!("{unit} on {host} was stopped by systemd");
            let text = format!("{what} at {}; who asked was not seen.", clock(stopping.at_us()));
            cause(what, text).because([stopping.seen])
        }
        (Some(Planned::Restart(job)), _) => {
            let what = format!("{unit} on {host} did not run");
            let text = format!("{what} from {} on: it was being restarted.", clock(job.at_us()));
            cause(what, text).next(next)
        }
        (None, Some(death))
            if death.abnormal() || !death.how_known() || death.by_signal().is_some() =>
        {
            let what = format!("{unit} on {host} does not run: {} {}", death.who(), death.how());
            let lived = death
                .lifetime_ms
                .map_or_else(String::new, |ms| format!(", {} after its start", duration_ms(ms)));
            let text = format!("{what} at {}{lived}.", clock(death.at_us));
            cause(what, text).next(next)
        }
        (None, Some(death)) => {
            let what = format!("{unit} on {host} ended by itself with status 0");
            let text = format!(
                "{what} at {}: {} was not told to stop by systemd.",
                clock(death.at_us),
                death.who()
            );
            cause(what, text)
        }
        (None, None) => idle(host, unit, state, cause, next),
    }
}

/// A unit that does not run, and nobody saw a process of it end.
fn idle<'a>(
    host: &str,
    unit: &str,
    state: Option<Said<'a, UnitState>>,
    cause: impl Fn(String, String) -> Cause<'a>,
    next: Effect<'a>,
) -> Cause<'a> {
    let Some(state) = state else {
        let what = format!("{unit} on {host} does not run");
        return cause(what.clone(), format!("{what}.")).next(next);
    };
    let (load, active) = (state.what.load.as_str(), state.what.active.as_str());
    let what = match (load, active) {
        ("masked", _) => format!("{unit} on {host} is masked and cannot start"),
        (_, "failed") => format!("{unit} on {host} failed"),
        (_, active) => format!("{unit} on {host} is {active}"),
    };
    let text = format!("{what} since {} or before.", clock(state.at_us()));
    let cause = cause(what, text);
    match (load, active) {
        ("masked", _) => cause.fix(format!("systemctl unmask {unit} && systemctl start {unit}")),
        (_, "inactive") if state.what.result == "success" => cause,
        _ => cause.next(next),
    }
}

fn by_whom(by: &str) -> String {
    if by.is_empty() { String::new() } else { format!(" ({by})") }
}

/// The main process ended while it held the connection.
fn ended_in_flight<'a>(
    snapshot: &'a Snapshot,
    host: &'a str,
    address: crate::address::Address<'a>,
    during: Window,
) -> Verdict<'a> {
    let Some(owner) = owner(snapshot, host, address, during) else { return Verdict::NoSign };
    let near = |death: &&Death| {
        during.from_us - LOST_NEAR_US <= death.at_us && death.at_us <= during.to_us + LOST_NEAR_US
    };
    let own = |death: &&Death| {
        if owner.unit.is_empty() {
            death.pid == owner.pid && death.pid != 0
        } else {
            death.main && death.unit == owner.unit
        }
    };
    let death = snapshot.deaths(host).iter().filter(near).filter(own);
    let Some(death) = death.min_by_key(|death| (death.at_us - during.at_us).abs()) else {
        return Verdict::NoSign;
    };
    let service = if owner.unit.is_empty() { death.who() } else { owner.unit.to_owned() };
    let what = format!("{service} on {host} ended while it held the request");
    let text = format!("{what}: {} {} at {}.", death.who(), death.how(), clock(death.at_us));
    let mut cause = Cause::new(host, death.at_us, Confidence::Proven, what)
        .text(text)
        .because(death.facts(snapshot));
    cause = if owner.unit.is_empty() {
        cause.check(format!("ps -C '{}' -o pid,lstart,args", death.comm)).fix("start it again")
    } else {
        cause.name("unit", owner.unit)
    };
    if let Some(Planned::Stop(job)) = snapshot.planned(host, death) {
        let by = by_whom(&job.what.by);
        cause.what = format!("{service} on {host} was stopped{by} while requests were in flight");
        cause.text = format!("{} at {}.", cause.what, clock(job.at_us()));
        return cause.because([job.seen]).explained();
    }
    cause.next(Effect::Down { host, unit: owner.unit, death: Some(death), during }).explained()
}

// -------------------------------------------------------------------------------- how it ended

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

fn restarting<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(ended) = ended(effect) else { return Verdict::NoSign };
    let Some(Planned::Restart(job)) = snapshot.planned(ended.host, ended.death) else {
        return Verdict::NoSign;
    };
    let (unit, host) = (&ended.death.unit, ended.host);
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

fn start_failed<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    super::systemd::start_failed(snapshot, effect)
}

// ------------------------------------------------------------------------- it does not yet listen

fn starting_slow<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::NothingListens { place, during } = *effect else { return Verdict::NoSign };
    let Some(host) = place.host() else { return Verdict::NoSign };
    let Listening::Gap { proof: gap, .. } = snapshot.listening(host, place.address, during) else {
        return Verdict::NoSign;
    };
    let Some(owner) = owner(snapshot, host, place.address, during) else { return Verdict::NoSign };
    if owner.unit.is_empty() {
        return Verdict::NoSign;
    }
    let unit = owner.unit;
    let (since_us, proof) = match snapshot.run(host, unit, during.at_us, during.to_us) {
        Run::Up { since_us, proof, .. } | Run::Starting { since_us, proof } => (since_us, proof),
        _ => return Verdict::NoSign,
    };
    let up_us = during.at_us.saturating_sub(since_us);
    let listens = snapshot.listeners(host).iter().any(|l| {
        l.unit == unit && l.from_us >= since_us && l.open_at(during.at_us) && l.netns == 0
    });
    if up_us > STARTING_MAX_US || listens {
        return Verdict::NoSign;
    }
    let before = snapshot.main_deaths(host, unit, since_us.max(during.from_us)).next_back();
    let what = format!(
        "{unit} on {host} has been starting for {} and does not listen yet",
        between(since_us, during.at_us)
    );
    let cause = Cause::new(host, since_us, Confidence::Proven, what.clone())
        .text(format!("{what}: it runs since {}.", clock(since_us)))
        .because([proof, gap])
        .name("unit", unit);
    if just_began(before, since_us, during) {
        return Verdict::NoSign;
    }
    let planned = before.and_then(|death| snapshot.planned(host, death));
    match (before, planned) {
        (Some(death), None) if since_us - death.at_us <= STARTING_MAX_US && death.abnormal() => {
            cause.next(Effect::Down { host, unit, death: Some(death), during }).explained()
        }
        _ => cause.explained(),
    }
}

// ---------------------------------------------------------------------------------- it stands still

fn hung_stopped<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    hung(snapshot, effect, &[StallKind::Stopped, StallKind::Traced, StallKind::Frozen])
}

fn hung_blocked<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    hung(snapshot, effect, &[StallKind::BlockedIo])
}

fn hung<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>, kinds: &[StallKind]) -> Verdict<'a> {
    let Some(serving) = super::capacity::listener_of(snapshot, effect) else {
        return Verdict::NoSign;
    };
    let (host, listener, during) = (serving.host, serving.listener, effect.during());
    let stall = snapshot
        .on::<ProcessStalled>(host)
        .filter(|stall| stall.at_us() <= during.to_us)
        .filter(|stall| kinds.contains(&stall.what.kind()))
        .filter(|stall| stall.what.pid == listener.pid || holds(stall.what, listener))
        .filter(|stall| resumed(snapshot, host, *stall).is_none_or(|at| at > during.from_us))
        .last();
    let Some(stall) = stall else {
        let told = format!("whether {} stands still", listener.owner());
        let missing = snapshot.first_blind(host, &[Source::Process], during.at_us, &told);
        return missing
            .map_or(Verdict::NoSign, |blind| Verdict::Undecided { missing: vec![blind] });
    };
    let sole = stall.what.main || stall.what.pid == listener.pid;
    let state = match stall.what.kind() {
        StallKind::Traced => "is held by a debugger",
        StallKind::Frozen => "is frozen with its cgroup",
        StallKind::BlockedIo => "is blocked in the kernel (state D)",
        _ => "is stopped (state T)",
    };
    let who = if stall.what.comm.is_empty() { "the process" } else { &stall.what.comm };
    let what = format!(
        "{} on {host} stands still: {who} (pid {}) {state}",
        listener.owner(),
        stall.what.pid
    );
    let confidence = if sole { Confidence::Proven } else { Confidence::Likely };
    let mut cause = Cause::new(host, stall.at_us(), confidence, what.clone())
        .text(format!("{what} since {}.", clock(stall.at_us())))
        .because([stall.seen])
        .name("pid", stall.what.pid.to_string());
    if stall.what.kind() == StallKind::Frozen {
        cause = cause
            .check(format!("systemctl show -p FreezerState {}", listener.owner()))
            .fix(format!("systemctl thaw {}", listener.owner()));
    }
    cause.explained()
}

fn holds(stalled: &ProcessStalled, listener: &crate::snapshot::Listener) -> bool {
    stalled.listeners.contains(&listener.address)
        || (stalled.main && !stalled.unit.is_empty() && stalled.unit == listener.unit)
}

fn resumed(snapshot: &Snapshot, host: &str, stall: Said<'_, ProcessStalled>) -> Option<i64> {
    snapshot
        .on::<ProcessResumed>(host)
        .find(|resumed| resumed.what.pid == stall.what.pid && resumed.at_us() > stall.at_us())
        .map(|resumed| resumed.at_us())
}
