//! The service itself is slow, or answers with an error of its own.

use why502_proto::v1::{AppEvent, AppServerEvent, GatewaySeen, RequestFailed, Source};

use super::Rule;
use super::capacity::{Serving, listener_of, queue};
use super::words::duration_ms;
use crate::address::Address;
use crate::effect::Effect;
use crate::snapshot::{Said, Snapshot};
use crate::verdict::{Cause, Confidence, Verdict};

/// The inner gateway's own failure lies this close to the answer that it gave.
const INNER_NEAR_US: i64 = 3_000_000;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "upstream.slow_app",
        summary: "the service took the request and needed longer than the gateway waits",
        doc: "Header timeouts (504; 502 with Apache) while other requests are served: its queue is empty and its \
                process runs.",
        check: "journalctl -u {unit} -n 50",
        fix: "make {route} faster or do the work in the background; or raise the gateway's read timeout of {timeout} \
              for that location",
        applies_to: |effect| matches!(effect, Effect::NoAnswer { .. }),
        judge: slow_app,
    },
    Rule {
        id: "upstream.relayed_error",
        summary: "the service itself answered 502, 503 or 504",
        doc: "The gateway's error log says nothing, and its access log has a header time: the answer came from a \
                gateway further in.",
        check: "curl -si http://{endpoint}/ -o /dev/null -w '%{http_code}'",
        fix: "look at what stands behind {endpoint}: it is a gateway itself, and knows why",
        applies_to: |effect| matches!(effect, Effect::Relayed { .. }),
        judge: relayed,
    },
];

fn slow_app<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::NoAnswer { place, during, failed } = *effect else { return Verdict::NoSign };
    let Some(place_host) = place.host() else {
        return Verdict::Undecided { missing: vec![super::network::nobody_there(place)] };
    };
    let Some(Serving { host, listener }) = listener_of(snapshot, effect) else {
        let told = format!("who serves {}", place.endpoint);
        let missing = snapshot.first_blind(place_host, &[Source::Listener], during.at_us, &told);
        return missing
            .map_or(Verdict::NoSign, |blind| Verdict::Undecided { missing: vec![blind] });
    };
    let needed = [Source::Listener, Source::Process];
    if let Some(blind) =
        snapshot.first_blind(host, &needed, during.at_us, "whether it was only slow")
    {
        return Verdict::Undecided { missing: vec![blind] };
    }
    let queue = queue(snapshot, host, listener, during.from_us, during.to_us);
    if let Some(waiting) = queue.waiting {
        return Verdict::RuledOut {
            by: vec![waiting.seen],
            text: format!(
                "Connections waited at {}: it was not one slow request.",
                listener.address
            ),
        };
    }
    if super::capacity::stands_still(snapshot, effect) {
        return Verdict::NoSign;
    }
    let owner = listener.owner();
    let timeout = timeout_ms(snapshot, effect);
    let limit = timeout.map_or_else(|| "its timeout".to_owned(), duration_ms);
    let route = if failed.what.path.is_empty() { &failed.what.route } else { &failed.what.path };
    let what = format!("{owner} on {host} took longer than {limit} to answer {route}");
    let said = snapshot.on::<AppServerEvent>(host).find(|said| {
        said.what.event() == AppEvent::SlowRequest
            && said.what.unit == listener.unit
            && during.from_us <= said.at_us()
            && said.at_us() <= during.to_us
    });
    let words = said.map_or_else(String::new, |said| {
        format!(" {} says \"{}\".", said.what.server, said.what.text)
    });
    let confidence = if said.is_some() { Confidence::Proven } else { Confidence::Likely };
    let text = format!(
        "{what}: the connection was taken, nothing waited in its accept queue, and its process ran.{words}"
    );
    Cause::new(host, during.at_us, confidence, what)
        .text(text)
        .because([failed.seen])
        .because(listener.opened(snapshot))
        .because(said.map(|said| said.seen))
        .name("unit", owner)
        .name("route", route.clone())
        .name("timeout", limit)
        .explained()
}

/// How long the gateway waits: as declared, else as long as it took.
pub(super) fn timeout_ms(snapshot: &Snapshot, effect: &Effect<'_>) -> Option<u64> {
    let Effect::NoAnswer { place, failed, .. } = *effect else { return None };
    let declared = super::listener::declaration(snapshot, &place);
    declared
        .map(|declared| declared.what.read_timeout_ms)
        .filter(|ms| *ms > 0)
        .or(failed.what.elapsed_ms)
}

fn relayed<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Relayed { place, failed, .. } = *effect else { return Verdict::NoSign };
    let status = failed.what.status.map_or_else(|| "an error".to_owned(), |s| s.to_string());
    let what = format!("{} answered {status} itself", place.endpoint);
    let text = format!("{what}: the gateway only passed it on.");
    let owner = place.host().unwrap_or(place.gateway);
    let mut cause = Cause::new(owner, failed.at_us(), Confidence::Proven, what)
        .text(text)
        .because([failed.seen])
        .name("endpoint", place.endpoint);
    if let Some((host, inner)) = inner_failure(snapshot, effect)
        && let Some(effect) = Effect::of_failure(snapshot, host, inner)
    {
        cause = cause.because([inner.seen]).next(effect);
    }
    cause.explained()
}

/// The gateway behind the endpoint failed on its own upstream at that moment.
fn inner_failure<'a>(
    snapshot: &'a Snapshot,
    effect: &Effect<'a>,
) -> Option<(&'a str, Said<'a, RequestFailed>)> {
    let Effect::Relayed { place, failed, during } = *effect else { return None };
    let host = place.host()?;
    let listens = |seen: &Said<'a, GatewaySeen>| {
        seen.what.listens.iter().filter_map(|text| Address::parse(text)).any(|own| {
            own.port() == place.address.port() || matches!(place.address, Address::Unix(_))
        })
    };
    let inner = snapshot.on::<GatewaySeen>(host).rfind(listens);
    let found = snapshot
        .on::<RequestFailed>(host)
        .filter(|own| own.seen.id != failed.seen.id)
        .filter(|own| host != place.gateway || own.what.endpoint != failed.what.endpoint)
        .filter(|own| inner.is_none_or(|inner| inner.what.instance == own.what.instance))
        .filter(|own| during.from_us - INNER_NEAR_US <= own.at_us() && own.at_us() <= during.to_us)
        .min_by_key(|own| ((own.at_us() - during.at_us).abs(), &own.seen.id))?;
    Some((host, found))
}
