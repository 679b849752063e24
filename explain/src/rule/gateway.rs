//! The gateway asks the wrong one, or has nobody left to ask.

use why502_proto::v1::{EndpointDeclared, EndpointDisabled, Fault, RequestFailed};

use super::Rule;
use super::listener::declared_at;
use super::words::list;
use crate::effect::{Effect, Tie};
use crate::forward;
use crate::snapshot::{Said, Snapshot};
use crate::verdict::{Cause, Confidence, Verdict};

/// A peer that failed is asked again after fail_timeout, 10 s by default; while it is down each try fails anew. This
/// covers what people set.
const FAILED_BEFORE_US: i64 = 60_000_000;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "gateway.upstream_port_mismatch",
        summary: "the gateway connects to a port on which its service does not listen",
        doc: "Refused at once; the service runs and listens on another port.",
        check: "ss -ltnp 'sport = :{port}'",
        fix: "change {endpoint} to port {port} in the gateway's configuration{place}, or let {owner} listen on {short}",
        applies_to: |effect| matches!(effect, Effect::Elsewhere { .. }),
        judge: port_mismatch,
    },
    Rule {
        id: "gateway.no_live_upstreams",
        summary: "the gateway has no peer left to ask",
        doc: "\"no live upstreams\": all peers failed shortly before, are marked down or are at max_conns. What made \
                them fail is the cause; alone this is a symptom.",
        check: "why502-agent doctor",
        fix: "mend the peers of {upstream}, or take `down` off them",
        applies_to: |effect| matches!(effect, Effect::NoPeer { .. }),
        judge: no_live_upstreams,
    },
];

fn port_mismatch<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Elsewhere { place, listener, during, tie } = *effect else {
        return Verdict::NoSign;
    };
    let Some(host) = place.host() else { return Verdict::NoSign };
    let owner = listener.owner();
    let port = crate::address::tcp(&listener.address).map_or(0, |socket| socket.port());
    let declared = super::listener::declaration(snapshot, &place);
    let where_declared = declared_at(snapshot, &place);
    let what = format!(
        "the gateway connects to {}{where_declared}, but {owner} on {host} listens on :{port}",
        place.endpoint
    );
    let (confidence, why) = match tie {
        Tie::SameUnit => {
            (Confidence::Proven, format!(" {owner} listened on {} before.", place.address.short()))
        }
        Tie::DeclaredBefore(gone) => (
            Confidence::Proven,
            format!(" The gateway led the same route to {} before.", gone.what.endpoint),
        ),
        Tie::OnlyOneLeft => (
            Confidence::Likely,
            format!(
                " Nothing was ever seen on {}, and no endpoint of the gateway leads to {owner}.",
                place.address.short()
            ),
        ),
    };
    let withdrawn = if let Tie::DeclaredBefore(gone) = tie { Some(gone.seen) } else { None };
    Cause::new(host, during.at_us, confidence, what.clone())
        .text(format!("{what}.{why}"))
        .because(listener.opened(snapshot))
        .because(declared.map(|declared| declared.seen))
        .because(withdrawn)
        .name("endpoint", place.endpoint)
        .name("port", port.to_string())
        .name("place", where_declared)
        .name("owner", owner)
        .name("short", place.address.short())
        .explained()
}

fn no_live_upstreams<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::NoPeer { gateway, failed, during } = *effect else { return Verdict::NoSign };
    let upstream = if failed.what.upstream.is_empty() {
        failed.what.route.as_str()
    } else {
        failed.what.upstream.as_str()
    };
    let earlier = peers_failed(snapshot, gateway, failed);
    let down = all_down(snapshot, gateway, failed);
    let disabled: Vec<Said<'a, EndpointDisabled>> = snapshot
        .on::<EndpointDisabled>(gateway)
        .filter(|gone| {
            (gone.what.upstream.is_empty() || gone.what.upstream == failed.what.upstream)
                && during.from_us - FAILED_BEFORE_US <= gone.at_us()
                && gone.at_us() <= during.to_us
        })
        .collect();
    let what = format!("{gateway} has no live peer left in {upstream}");
    let mut cause = Cause::new(gateway, during.at_us, Confidence::Possible, what.clone())
        .because([failed.seen])
        .because(disabled.iter().rev().take(4).map(|gone| gone.seen))
        .name("upstream", upstream);
    if !earlier.is_empty() {
        cause.confidence = Confidence::Proven;
        let peers: Vec<String> = earlier.iter().map(|e| e.what.endpoint.clone()).collect();
        cause.text = format!("{what}: {} failed before.", list(&peers));
        for failure in earlier {
            cause.evidence.push(failure.seen);
            cause.next.extend(Effect::of_failure(snapshot, gateway, failure));
        }
        return cause.explained();
    }
    let checked: Vec<_> = disabled.iter().filter(|gone| !gone.what.message.is_empty()).collect();
    if !checked.is_empty() {
        cause.confidence = Confidence::Proven;
        let said: Vec<String> = checked
            .iter()
            .map(|gone| format!("{} (\"{}\")", gone.what.endpoint, gone.what.message))
            .collect();
        cause.text = format!("{what}: its health checks failed for {}.", list(&said));
        cause
            .next
            .extend(checked.iter().filter_map(|gone| Effect::of_check(snapshot, gateway, **gone)));
        cause.next.extend(would_fail(snapshot, gateway, failed));
        return cause.explained();
    }
    if !down.is_empty() {
        cause.confidence = Confidence::Proven;
        cause.what = format!("every peer of {upstream} is marked down on {gateway}");
        cause.text = format!("{}.", cause.what);
        return cause.because(down).explained();
    }
    let next: Vec<Effect<'a>> = would_fail(snapshot, gateway, failed).collect();
    if !next.is_empty() {
        cause.confidence = Confidence::Likely;
        cause.text = format!("{what}, and requests to its peers would fail now.");
        cause.next.extend(next);
        return cause.explained();
    }
    cause.text = format!("{what}, and what made them fail was not seen.");
    cause.explained()
}

/// What requests to the peers that were to be asked would meet now.
fn would_fail<'a>(
    snapshot: &'a Snapshot,
    gateway: &'a str,
    failed: Said<'a, RequestFailed>,
) -> impl Iterator<Item = Effect<'a>> {
    peers(snapshot, gateway, failed).into_iter().flat_map(move |declared| {
        let endpoint = std::slice::from_ref(&declared.what.endpoint);
        let addresses = &declared.what.addresses;
        let addresses = if addresses.is_empty() { endpoint } else { addresses.as_slice() };
        addresses.iter().filter_map(move |address| {
            let place = snapshot.place(gateway, address, snapshot.now_us())?;
            forward::would_fail(snapshot, place, declared).map(|(effect, _)| effect)
        })
    })
}

/// The peers that were to be asked.
fn peers<'a>(
    snapshot: &'a Snapshot,
    gateway: &str,
    failed: Said<'a, RequestFailed>,
) -> Vec<Said<'a, EndpointDeclared>> {
    let mut peers = snapshot.declared(gateway, failed.at_us());
    peers.retain(|declared| {
        let same_upstream =
            !failed.what.upstream.is_empty() && declared.what.upstream == failed.what.upstream;
        declared.what.instance == failed.what.instance
            && (same_upstream || declared.what.route == failed.what.route)
    });
    peers
}

/// The newest real failure of each peer shortly before, newest first.
fn peers_failed<'a>(
    snapshot: &'a Snapshot,
    gateway: &str,
    failed: Said<'a, RequestFailed>,
) -> Vec<Said<'a, RequestFailed>> {
    /// Peers that are looked into; an upstream group has rarely more.
    const PEERS_MAX: usize = 8;
    let mut newest: Vec<Said<'a, RequestFailed>> = Vec::new();
    let mut all: Vec<Said<'a, RequestFailed>> = snapshot
        .on::<RequestFailed>(gateway)
        .filter(|own| own.what.fault() != Fault::NoLiveUpstreams && !own.what.endpoint.is_empty())
        .filter(|own| {
            let same_upstream =
                !failed.what.upstream.is_empty() && own.what.upstream == failed.what.upstream;
            own.what.instance == failed.what.instance
                && (same_upstream || own.what.route == failed.what.route)
        })
        .filter(|own| {
            failed.at_us() - FAILED_BEFORE_US <= own.at_us() && own.at_us() <= failed.at_us()
        })
        .collect();
    all.sort_by(|a, b| (b.at_us(), &b.seen.id).cmp(&(a.at_us(), &a.seen.id)));
    for own in all {
        let known = newest.iter().any(|other| other.what.endpoint == own.what.endpoint);
        if !known && newest.len() < PEERS_MAX {
            newest.push(own);
        }
    }
    newest
}

/// The declarations that mark every peer of the route down.
fn all_down<'a>(
    snapshot: &'a Snapshot,
    gateway: &str,
    failed: Said<'a, RequestFailed>,
) -> Vec<&'a crate::Seen> {
    let peers = peers(snapshot, gateway, failed);
    if peers.iter().all(|peer| peer.what.down) {
        peers.into_iter().map(|peer| peer.seen).collect()
    } else {
        Vec::new()
    }
}
