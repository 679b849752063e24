//! The service runs and listens, and cannot take more.

use why502_proto::v1::{AcceptOverflow, AcceptQueue, AppEvent, AppServerEvent, Source};

use super::Rule;
use super::words::clock;
use crate::effect::Effect;
use crate::snapshot::{Listener, Said, Snapshot, Window};
use crate::verdict::{Cause, Confidence, Verdict};

/// A server says once that it has no free worker, and stays silent until it had one again: this long its word holds.
const SATURATED_HOLDS_US: i64 = 60_000_000;
/// A queue that was there is seen this much later.
const QUEUE_SEEN_US: i64 = 200_000;
/// A connect that timed out may have begun so long before: nginx waits 60 s by default.
const CONNECT_BEGAN_US: i64 = 61_000_000;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "workers.saturated",
        summary: "all workers are busy, and requests wait in the accept queue",
        doc: "Slow, then 504: the connection is taken by the kernel and nobody reads it. php-fpm says max_children \
                (never with pm = static), uWSGI that its listen queue is full. A queue that moves is only load.",
        check: "ss -ltn 'sport = :{port}'",
        fix: "add workers to {unit} (as many as its memory allows), or find what keeps them busy",
        applies_to: |effect| matches!(effect, Effect::Busy { .. } | Effect::NoAnswer { .. }),
        judge: saturated,
    },
    Rule {
        id: "accept_queue.overflow",
        summary: "the accept queue is full, and the kernel drops new connections",
        doc: "Connect timeouts (504 or 503), or steps of 1, 3 and 7 s: a full TCP queue drops SYNs, it does not refuse. \
                ListenOverflows counts them.",
        check: "ss -ltn 'sport = :{port}'; nstat -az TcpExtListenOverflows",
        fix: "let {owner} accept faster (more workers); only then raise its backlog and net.core.somaxconn above {limit}",
        applies_to: |effect| matches!(effect, Effect::ConnectTimeout { .. }),
        judge: overflow,
    },
];

/// The socket that takes, or took, the connections, and its host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Serving<'a> {
    pub(super) host: &'a str,
    pub(super) listener: &'a Listener,
}

pub(super) fn listener_of<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Option<Serving<'a>> {
    if let Effect::Busy { host, listener, .. } = *effect {
        return Some(Serving { host, listener });
    }
    let place = effect.place()?;
    let (host, during) = (place.host()?, effect.during());
    let listener = snapshot
        .listeners(host)
        .iter()
        .filter(|l| l.takes(place.address))
        .filter(|l| l.from_us <= during.at_us && l.to_us > during.from_us)
        .max_by_key(|l| (l.to_us, l.from_us))?;
    Some(Serving { host, listener })
}

/// Host and unit behind an effect.
pub(super) fn serving<'a>(
    snapshot: &'a Snapshot,
    effect: &Effect<'a>,
) -> Option<(&'a str, &'a str)> {
    listener_of(snapshot, effect).map(|serving| (serving.host, serving.listener.unit.as_str()))
}

/// The queue of a listener over a stretch of time.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Queue<'a> {
    /// It held connections.
    pub(super) waiting: Option<Said<'a, AcceptQueue>>,
    /// It could hold no more.
    pub(super) full: Option<Said<'a, AcceptQueue>>,
}

pub(super) fn queue<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    listener: &Listener,
    from_us: i64,
    to_us: i64,
) -> Queue<'a> {
    let mut queue = Queue::default();
    for said in snapshot.on::<AcceptQueue>(host).filter(|said| said.at_us() <= to_us) {
        if said.what.address != listener.address || said.what.netns != listener.netns {
            continue;
        }
        // Before the stretch only the last word counts: it still holds when the stretch begins.
        let before = said.at_us() < from_us;
        if said.what.full {
            queue.full = Some(said);
        } else if before {
            queue.full = None;
        }
        if said.what.depth > 0 {
            queue.waiting = Some(said);
        } else if before {
            queue.waiting = None;
        }
    }
    queue
}

/// The server itself says that it has no worker left.
fn says_saturated<'a>(
    snapshot: &'a Snapshot,
    host: &str,
    unit: &str,
    during: Window,
) -> Option<Said<'a, AppServerEvent>> {
    snapshot
        .on::<AppServerEvent>(host)
        .filter(|said| !unit.is_empty() && said.what.unit == unit)
        .rfind(|said| {
            matches!(said.what.event(), AppEvent::WorkersSaturated | AppEvent::QueueFull)
                && during.from_us - SATURATED_HOLDS_US <= said.at_us()
                && said.at_us() <= during.to_us
        })
}

fn saturated<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(Serving { host, listener }) = listener_of(snapshot, effect) else {
        return Verdict::NoSign;
    };
    let during = effect.during();
    let said = says_saturated(snapshot, host, &listener.unit, during);
    // What waits only after the request has failed is not why it did.
    let until_us = during.at_us.saturating_add(QUEUE_SEEN_US);
    let queue = queue(snapshot, host, listener, during.from_us, until_us);
    // A full queue is what is to be explained there: it is no evidence for its own cause.
    if said.is_none() && matches!(effect, Effect::Busy { .. }) {
        return Verdict::NoSign;
    }
    if said.is_none() && queue.waiting.is_none() {
        // That the server says nothing proves nothing: php-fpm with pm = static never does.
        let told = format!("whether requests wait at {}", listener.address);
        let missing = snapshot.first_blind(host, &[Source::Listener], during.at_us, &told);
        return missing
            .map_or(Verdict::NoSign, |blind| Verdict::Undecided { missing: vec![blind] });
    }
    if said.is_none()
        && let Some(blind) =
            snapshot.first_blind(host, &[Source::Process], during.at_us, "whether its workers run")
    {
        return Verdict::Undecided { missing: vec![blind] };
    }
    if stands_still(snapshot, effect) {
        return Verdict::NoSign;
    }
    let owner = listener.owner();
    let what = match said.and_then(|said| said.what.limit) {
        Some(limit) if said.is_some_and(|s| s.what.event() == AppEvent::WorkersSaturated) => {
            format!("all {limit} workers of {owner} on {host} are busy")
        }
        _ => format!("all workers of {owner} on {host} are busy"),
    };
    let waits = queue.waiting.map_or_else(String::new, |said| {
        format!(
            " {} of at most {} connections wait at {}.",
            said.what.depth, said.what.limit, listener.address
        )
    });
    let words = said.map_or_else(String::new, |said| {
        format!(" {} says \"{}\".", said.what.server, said.what.text)
    });
    let at_us = said.map_or(during.at_us, |said| said.at_us());
    let confidence = if said.is_some() { Confidence::Proven } else { Confidence::Likely };
    Cause::new(host, at_us, confidence, what.clone())
        .text(format!("{what} around {}.{words}{waits}", clock(at_us)))
        .because(said.map(|said| said.seen))
        .because(queue.waiting.map(|said| said.seen))
        .name("unit", owner)
        .name("port", crate::address::tcp(&listener.address).map_or(0, |s| s.port()).to_string())
        .explained()
}

/// A process that stands still does not work: it is neither saturated nor slow.
pub(super) fn stands_still<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> bool {
    super::catalog()
        .filter(|rule| rule.id.starts_with("process.hung."))
        .any(|rule| matches!((rule.judge)(snapshot, effect), Verdict::Explained(_)))
}

fn overflow<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Some(Serving { host, listener }) = listener_of(snapshot, effect) else {
        return match effect.place() {
            Some(place) if place.host().is_none() => {
                Verdict::Undecided { missing: vec![super::network::nobody_there(place)] }
            }
            _ => Verdict::NoSign,
        };
    };
    if listener.socket().is_none() {
        return Verdict::NoSign;
    }
    let during = effect.during();
    let began_us = during.from_us - CONNECT_BEGAN_US;
    let queue = queue(snapshot, host, listener, began_us, during.to_us);
    let drops: Vec<Said<'a, AcceptOverflow>> = snapshot
        .on::<AcceptOverflow>(host)
        .filter(|drop| drop.what.netns == listener.netns && drop.what.overflows > 0)
        .filter(|drop| began_us <= drop.at_us() && drop.at_us() <= during.to_us)
        .collect();
    let named = drops.iter().any(|drop| drop.what.addresses.contains(&listener.address));
    let confidence = match (queue.full, named) {
        (Some(_), _) | (_, true) => Confidence::Proven,
        (None, false) if !drops.is_empty() && queue.waiting.is_some() => Confidence::Likely,
        _ => return no_overflow(snapshot, effect, host, listener),
    };
    let owner = listener.owner();
    let limit = queue.full.map_or(listener.queue_limit, |said| said.what.limit);
    let depth = queue.full.map_or_else(String::new, |said| format!(" ({} wait)", said.what.depth));
    let count: u64 = drops.iter().map(|drop| drop.what.overflows).sum();
    let what = format!(
        "the accept queue of {owner} on {host} is full: {} takes {limit}",
        listener.address
    );
    let dropped = if count > 0 {
        format!(" The kernel dropped {count} connection attempts.")
    } else {
        String::new()
    };
    let at_us = queue.full.map_or(during.at_us, |said| said.at_us());
    Cause::new(host, at_us, confidence, what.clone())
        .text(format!("{what}{depth} since {}.{dropped}", clock(at_us)))
        .because(queue.full.or(queue.waiting).map(|said| said.seen))
        .because(drops.iter().rev().take(4).map(|drop| drop.seen))
        .name("owner", owner)
        .name("limit", limit.to_string())
        .name("port", crate::address::tcp(&listener.address).map_or(0, |s| s.port()).to_string())
        .next(Effect::Busy { host, listener, during: Window { from_us: began_us, ..during } })
        .explained()
}

fn no_overflow<'a>(
    snapshot: &'a Snapshot,
    effect: &Effect<'a>,
    host: &str,
    listener: &Listener,
) -> Verdict<'a> {
    if !matches!(effect, Effect::ConnectTimeout { .. }) {
        return Verdict::NoSign;
    }
    let sight = snapshot.sight(host, Source::Listener, effect.during().at_us);
    match sight.seeing() {
        Some(proof) => Verdict::RuledOut {
            by: vec![proof],
            text: format!("The accept queue of {} on {host} did not overflow.", listener.address),
        },
        None => {
            let told = format!("whether the accept queue of {} overflowed", listener.address);
            let blind = crate::verdict::blind(host, Source::Listener, sight, &told);
            Verdict::Undecided { missing: vec![blind] }
        }
    }
}
