//! A worker died or was killed; its master lives on and keeps the listener.

use why502_proto::Kind;
use why502_proto::v1::{AppEvent, Source};

use crate::effect::{Effect, Symptom};
use crate::find::{self, SLACK_US, signal_name};
use crate::rule::{Cause, Confidence, Rule, Verdict};
use crate::snapshot::{Seen, Snapshot};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "worker.killed_by_timeout",
        summary: "the app server killed the worker because its request took too long",
        doc: "gunicorn WORKER TIMEOUT, php-fpm request_terminate_timeout, uWSGI HARAKIRI, Unicorn and Puma timeouts. The gateway sees a close after a constant time, below its own time-out.",
        check: "journalctl -u UNIT -g -i timeout",
        fix: "speed the request up, or raise the server's limit above the gateway's",
        applies_to: |effect| matches!(effect, Effect::Symptom(symptom) if symptom.dropped()),
        judge: killed_by_timeout,
    },
    Rule {
        id: "worker.crashed",
        summary: "a worker died; its master lives on",
        doc: "Only the request under way fails, the next ones are served. systemd shows nothing, since it is not the main process.",
        check: "journalctl -u UNIT -g -e signal -e died",
        fix: "find what the failing request does; take the core to the developers",
        applies_to: |effect| matches!(effect, Effect::Symptom(symptom) if symptom.dropped()),
        judge: crashed,
    },
];

/// A worker's end is felt at once; its words may come a second late.
const WINDOW_US: i64 = 2_000_000;

/// The unit that held the listener when the request was cut, if it held it on.
fn serving_unit<'a>(
    snapshot: &'a Snapshot,
    symptom: &Symptom<'a>,
) -> Option<(&'a str, &'a Seen, &'a str, u32)> {
    let host = symptom.host?;
    let address = symptom.addresses.first()?;
    let open = find::covering(snapshot, host, address, symptom.at_us)?;
    Some((host, open.fact, open.listener.unit.as_str(), open.listener.pid))
}

fn killed_by_timeout<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Symptom(symptom) = effect else { return Verdict::Silent };
    let Some((host, listener, unit, _)) = serving_unit(snapshot, symptom) else {
        return Verdict::Silent;
    };
    let told = snapshot
        .between(host, symptom.at_us - 5 * WINDOW_US, symptom.at_us + WINDOW_US)
        .filter_map(|fact| match &fact.kind {
            Kind::AppServerEvent(event)
                if event.event() == AppEvent::WorkerTimedOut && event.unit == unit =>
            {
                Some((fact, event))
            }
            _ => None,
        })
        .min_by_key(|(fact, _)| (fact.at_us - symptom.at_us).abs());
    let Some((fact, event)) = told else { return Verdict::Silent };
    let after = event.duration_ms.map(|ms| format!(" after {}.{} s", ms / 1000, ms % 1000 / 100));
    Verdict::Explained(Cause {
        host: host.to_owned(),
        at_us: fact.at_us,
        text: format!(
            "{} of {unit} killed its worker {}{}: \"{}\"",
            event.server,
            event.pid,
            after.unwrap_or_default(),
            event.text
        ),
        confidence: Confidence::Proven,
        evidence: vec![fact, listener],
        next: None,
        check: format!("journalctl -u {unit} -n 20"),
        fix: format!(
            "speed the request up, or raise the time-out of {} above the gateway's",
            event.server
        ),
    })
}

fn crashed<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Symptom(symptom) = effect else { return Verdict::Silent };
    let Some((host, listener, unit, owner)) = serving_unit(snapshot, symptom) else {
        return Verdict::Silent;
    };
    let from = symptom.at_us - WINDOW_US;
    let mut found: Vec<(&Seen, u32, Option<u32>, Option<u32>)> = Vec::new();
    for fact in snapshot.between(host, from, symptom.at_us + WINDOW_US) {
        match &fact.kind {
            Kind::ProcessExited(exited)
                if exited.unit == unit
                    && !unit.is_empty()
                    && exited.pid != owner
                    && !exited.main =>
            {
                found.push((fact, exited.pid, exited.signal, exited.status));
            }
            Kind::AppServerEvent(event)
                if event.event() == AppEvent::WorkerCrashed && event.unit == unit =>
            {
                found.push((fact, event.pid, event.signal, event.status));
            }
            _ => {}
        }
    }
    // An orderly end (status 0) is a recycled worker, not a crash.
    let abnormal = |signal: Option<u32>, status: Option<u32>| {
        signal.is_some() || status.is_some_and(|status| status != 0)
    };
    let Some((_, pid, ..)) = found.iter().find(|(_, _, signal, status)| abnormal(*signal, *status))
    else {
        return match find::blind(
            snapshot,
            host,
            Source::Process,
            symptom.at_us,
            "whether a worker died",
        ) {
            Some(missing) => Verdict::Undecided(missing),
            None => Verdict::Silent,
        };
    };
    let same: Vec<_> = found.iter().filter(|(_, of, ..)| of == pid).collect();
    let signal = same.iter().find_map(|(_, _, signal, _)| *signal);
    let status = same.iter().find_map(|(_, _, _, status)| *status);
    let how = match (signal, status) {
        (Some(signal), _) => format!("died by {}", signal_name(signal)),
        (None, Some(status)) => format!("ended with status {status}"),
        (None, None) => "died".to_owned(),
    };
    let facts: Vec<&Seen> = same.iter().map(|(fact, ..)| *fact).collect();
    let at_us = facts.first().map_or(symptom.at_us, |fact| fact.at_us);
    let exit =
        find::Exit { at_us, pid: *pid, signal, status, facts: facts.clone(), ..Default::default() };
    // Only a kill can have a deeper reason that we know of.
    let next = (signal == Some(9))
        .then(|| Effect::Ended(find::ended(host, unit, &exit, symptom.at_us, true)));
    Verdict::Explained(Cause {
        host: host.to_owned(),
        at_us,
        text: format!("worker {pid} of {unit} {how} while it served; its master lives on"),
        confidence: Confidence::Proven,
        evidence: facts.into_iter().chain([listener]).collect(),
        next,
        check: format!("journalctl -u {unit} --since '10 min ago'"),
        fix: format!(
            "find what {} {} does in it; coredumpctl info {pid} if there is a core",
            symptom.failed.map_or("", |(_, failed)| failed.method.as_str()),
            symptom.failed.map_or("the request", |(_, failed)| failed.path.as_str())
        ),
    })
}

/// Kept here so that the slack of both windows is read together.
const _: () = assert!(WINDOW_US > SLACK_US);
