//! The process that should serve does not run, or does not listen yet.

use why502_proto::v1::{Source, UnitState};

use super::Rule;
use super::owner::{Owner, owner};
use super::starting::{just_began, just_closed, listens_since, starting_slow};
use super::words::{clock, duration_ms};
use crate::Seen;
use crate::effect::{Effect, WORDS_LATE_US};
use crate::snapshot::{Death, Listening, Planned, Run, Said, Snapshot, Window};
use crate::verdict::{Blind, Cause, Confidence, Verdict, blind};

/// A connection that was there is lost within this of the end of the process that held it.
const LOST_NEAR_US: i64 = 2_000_000;
pub(super) const RULES: &[Rule] = &[
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
];

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
        // It has only just begun again, and a start takes its time: what ended it before is the
        // question.
        Run::Up { since_us, .. }
            if just_began(before(), since_us, during)
                && !listens_since(snapshot, host, unit, since_us, during) =>
        {
            (before(), None)
        }
        // Its port closed a moment ago: its end may not have been told yet.
        Run::Up { since_us, .. } if just_closed(snapshot, owner, since_us) => {
            let told = format!("whether {unit} has ended");
            let sight = snapshot.sight(host, Source::Process, during.at_us);
            return Verdict::Undecided {
                missing: vec![blind(host, Source::Process, sight, &told)],
            };
        }
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

pub(super) fn by_whom(by: &str) -> String {
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
        during.from_us - LOST_NEAR_US <= death.at_us && death.at_us <= during.to_us + WORDS_LATE_US
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
