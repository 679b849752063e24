//! The upstream answered late, or answered the error itself.

use why502_proto::v1::{Fault, Source};

use crate::effect::Effect;
use crate::find;
use crate::rule::{Cause, Confidence, Rule, Verdict};
use crate::snapshot::Snapshot;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "upstream.relayed_error",
        summary: "the upstream itself answered 502, 503 or 504",
        doc: "The gateway only passed it on: there is a response header and no line in its error log. Look at the gateway behind it.",
        check: "curl -i http://ENDPOINT/",
        fix: "look for the cause one hop further",
        applies_to: |effect| {
            matches!(effect, Effect::Symptom(symptom)
            if symptom.fault == Fault::Relayed)
        },
        judge: relayed,
    },
    Rule {
        id: "upstream.slow_app",
        summary: "the app takes longer than the gateway waits",
        doc: "The connection was taken at once, nothing queues, the process runs: this request is slow.",
        check: "curl -w '%{time_starttransfer}' http://ENDPOINT/",
        fix: "make the request faster or asynchronous, or wait longer on this route",
        applies_to: |effect| matches!(effect, Effect::Symptom(symptom) if symptom.header_timeout()),
        judge: slow,
    },
];

fn relayed<'a>(_: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Symptom(symptom) = effect else { return Verdict::Silent };
    let Some((fact, failed)) = symptom.failed else { return Verdict::Silent };
    let host = symptom.host.unwrap_or(symptom.gateway);
    Verdict::Explained(Cause {
        host: host.to_owned(),
        at_us: symptom.at_us,
        text: format!(
            "{} itself answered {}; {} only passed it on",
            symptom.endpoint,
            failed.status.unwrap_or(502),
            failed.gateway
        ),
        confidence: Confidence::Proven,
        evidence: vec![fact],
        next: None,
        check: format!("curl -si http://{}{}", symptom.endpoint, failed.path),
        fix: format!("look at what {} asks in turn", symptom.endpoint),
    })
}

fn slow<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Symptom(symptom) = effect else { return Verdict::Silent };
    let (Some(host), Some(address)) = (symptom.host, symptom.addresses.first()) else {
        return Verdict::Silent;
    };
    // A process that hangs looks the same from outside: without these sources there is no telling.
    for (source, tell) in [
        (Source::Listener, "whether connections waited"),
        (Source::Process, "whether it was stopped"),
    ] {
        if let Some(missing) = find::blind(snapshot, host, source, symptom.at_us, tell) {
            return Verdict::Undecided(missing);
        }
    }
    let Some(open) = find::covering(snapshot, host, address, symptom.at_us) else {
        return Verdict::Silent;
    };
    let limit = symptom
        .declared
        .filter(|(_, declared)| declared.read_timeout_ms > 0)
        .map(|(_, declared)| format!(" of {} s", declared.read_timeout_ms / 1000))
        .unwrap_or_default();
    let path = symptom.failed.map_or("", |(_, failed)| failed.path.as_str());
    let name =
        if open.listener.unit.is_empty() { &open.listener.comm } else { &open.listener.unit };
    Verdict::Explained(Cause {
        host: host.to_owned(),
        at_us: symptom.at_us,
        text: format!(
            "{name} takes longer for {path} than the gateway's time-out{limit}; it runs, and nothing \
             waits in its queue"
        ),
        confidence: Confidence::Likely,
        evidence: std::iter::once(open.fact)
            .chain(symptom.failures.last().copied())
            .chain(symptom.declared.map(|(fact, _)| fact))
            .collect(),
        next: None,
        check: format!(
            "curl -so /dev/null -w '%{{time_starttransfer}}\\n' http://{}{path}",
            symptom.endpoint
        ),
        fix: match symptom.declared {
            Some((_, declared)) => format!(
                "make {path} faster or asynchronous, or raise the time-out of that location ({}:{})",
                declared.file, declared.line
            ),
            None => format!("make {path} faster or asynchronous, or raise the gateway's time-out"),
        },
    })
}
