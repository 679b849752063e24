//! One worker of a service ended, while the service lives on.

use why502_proto::v1::{AppEvent, AppServerEvent, RequestFailed, Source};

use super::Rule;
use super::capacity::{Serving, listener_of};
use super::words::{clock, duration_ms};
use crate::effect::{Effect, Role};
use crate::snapshot::{Death, Said, Snapshot, signal_name};
use crate::verdict::{Blind, Cause, Confidence, Verdict, blind};

/// A worker's end and the loss of its request lie this close together.
const LOST_NEAR_US: i64 = 2_000_000;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "worker.killed_by_timeout",
        summary: "the app server killed the worker because its request took too long",
        doc: "502 after a constant time, shorter than the gateway's timeout; the server says so (WORKER TIMEOUT, \
                execution timed out, HARAKIRI).",
        check: "journalctl -u {unit} -g 'TIMEOUT|timed out|HARAKIRI' -n 20",
        fix: "make the request faster, or raise the server's own limit{limit} in {unit}",
        applies_to: |effect| matches!(effect, Effect::ConnectionLost { .. }),
        judge: killed_by_timeout,
    },
    Rule {
        id: "worker.crashed",
        summary: "a worker of the service died with the request; the service lives on",
        doc: "Only the request in flight fails (closed or reset), the next one succeeds. systemd says nothing: it is not \
                the main process.",
        check: "journalctl -u {unit} -n 30",
        fix: "look at the request that kills it ({request}) and at the worker's core or last words",
        applies_to: |effect| matches!(effect, Effect::ConnectionLost { .. }),
        judge: crashed,
    },
];

fn near(effect: &Effect<'_>, at_us: i64) -> bool {
    let during = effect.during();
    during.from_us - LOST_NEAR_US <= at_us && at_us <= during.to_us + LOST_NEAR_US
}

fn said<'a>(
    snapshot: &'a Snapshot,
    effect: &Effect<'a>,
    serving: Serving<'a>,
    event: AppEvent,
) -> Option<Said<'a, AppServerEvent>> {
    let during = effect.during();
    snapshot
        .on::<AppServerEvent>(serving.host)
        .filter(|said| said.what.event() == event && near(effect, said.at_us()))
        .filter(|said| said.what.unit == serving.listener.unit)
        .min_by_key(|said| ((said.at_us() - during.at_us).abs(), &said.seen.id))
}

fn killed_by_timeout<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(serving) = listener_of(snapshot, effect) else { return Verdict::NoSign };
    let (host, unit) = (serving.host, serving.listener.owner());
    let Some(said) = said(snapshot, effect, serving, AppEvent::WorkerTimedOut) else {
        let told = format!("whether {unit} killed the worker for taking too long");
        let missing = snapshot.first_blind(host, &[Source::Journal], effect.during().at_us, &told);
        return missing
            .map_or(Verdict::NoSign, |blind| Verdict::Undecided { missing: vec![blind] });
    };
    let took =
        said.what.duration_ms.map_or_else(String::new, |ms| format!(" after {}", duration_ms(ms)));
    let what = format!("{unit} on {host} killed its own worker{took}: the request took too long");
    let death = worker_deaths(snapshot, effect, serving)
        .find(|death| said.what.pid == 0 || death.pid == said.what.pid);
    let limit = said
        .what
        .duration_ms
        .map_or_else(String::new, |ms| format!(" (about {})", duration_ms(ms)));
    Cause::new(host, said.at_us(), Confidence::Proven, what.clone())
        .text(format!("{what}. {} says \"{}\".", said.what.server, said.what.text))
        .because([said.seen])
        .because(death.map(|death| death.facts(snapshot)).unwrap_or_default())
        .name("unit", unit)
        .name("limit", limit)
        .explained()
}

/// Ends of other processes than the main one, near the loss, that did not end well.
fn worker_deaths<'a>(
    snapshot: &'a Snapshot,
    effect: &Effect<'a>,
    serving: Serving<'a>,
) -> impl Iterator<Item = &'a Death> {
    let (during, listener) = (effect.during(), serving.listener);
    let effect = *effect;
    let mut deaths: Vec<&Death> = snapshot
        .deaths(serving.host)
        .iter()
        .filter(|death| near(&effect, death.at_us) && !death.main)
        .filter(|death| {
            let same_unit = !listener.unit.is_empty() && death.unit == listener.unit;
            same_unit || (listener.pid != 0 && death.ppid == listener.pid)
        })
        .collect();
    deaths.sort_by_key(|death| ((death.at_us - during.at_us).abs(), death.pid));
    deaths.into_iter()
}

fn crashed<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(serving) = listener_of(snapshot, effect) else {
        return match effect.place() {
            Some(place) if place.host().is_none() => {
                Verdict::Undecided { missing: vec![super::network::nobody_there(place)] }
            }
            _ => Verdict::NoSign,
        };
    };
    let (host, unit) = (serving.host, serving.listener.owner());
    let timed_out = said(snapshot, effect, serving, AppEvent::WorkerTimedOut);
    if let Some(timed_out) = timed_out {
        let text = format!("{unit} killed the worker itself: its request took too long.");
        return Verdict::RuledOut { by: vec![timed_out.seen], text };
    }
    let words = said(snapshot, effect, serving, AppEvent::WorkerCrashed);
    let death = worker_deaths(snapshot, effect, serving)
        .find(|death| death.abnormal() || death.by_signal().is_some());
    if death.is_none() && words.is_none() {
        return no_worker(snapshot, effect, serving);
    }
    let pid = death.map(|d| d.pid).or(words.map(|w| w.what.pid)).unwrap_or(0);
    let how = death.filter(|d| d.how_known()).map(Death::how).or_else(|| {
        words.and_then(|w| w.what.signal).map(|s| format!("was ended by {}", signal_name(s)))
    });
    let how = how.unwrap_or_else(|| "died".to_owned());
    let what = format!("a worker of {unit} on {host} (pid {pid}) {how} with the request");
    let at_us =
        death.map(|d| d.at_us).or(words.map(|w| w.at_us())).unwrap_or(effect.during().at_us);
    let quote =
        words.map_or_else(String::new, |w| format!(" {} says \"{}\".", w.what.server, w.what.text));
    let mut cause = Cause::new(host, at_us, Confidence::Proven, what.clone())
        .text(format!("{what} at {}; {unit} itself lives on.{quote}", clock(at_us)))
        .because(death.map(|death| death.facts(snapshot)).unwrap_or_default())
        .because(words.map(|words| words.seen))
        .name("unit", unit)
        .name("request", request(snapshot, effect));
    if let Some(death) = death {
        let (during, role) = (effect.during(), Role::Worker);
        cause = cause.next(Effect::Ended { host, death, during, role });
    }
    cause.explained()
}

/// "POST /pay"
fn request(snapshot: &Snapshot, effect: &Effect<'_>) -> String {
    let Some(place) = effect.place() else { return String::new() };
    let failed = snapshot
        .on::<RequestFailed>(place.gateway)
        .rfind(|f| f.what.endpoint == place.endpoint && f.at_us() <= effect.during().at_us);
    failed.map_or_else(
        || "see the gateway's log".to_owned(),
        |failed| format!("{} {}", failed.what.method, failed.what.path).trim().to_owned(),
    )
}

/// No worker was seen to end: proof only where every end is seen.
fn no_worker<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>, serving: Serving<'a>) -> Verdict<'a> {
    let (host, at_us) = (serving.host, effect.during().at_us);
    let sight = snapshot.part_sight(host, Source::Process, "connector", at_us);
    match sight.seeing() {
        Some(proof) => Verdict::RuledOut {
            by: vec![proof],
            text: format!("No process of {} ended around then.", serving.listener.owner()),
        },
        None => {
            let told = format!("whether a worker of {} ended", serving.listener.owner());
            let missing: Vec<Blind> = vec![blind(host, Source::Process, sight, &told)];
            Verdict::Undecided { missing }
        }
    }
}
