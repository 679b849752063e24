//! The gateway connects over a unix socket, and cannot.

use why502_proto::v1::{Fault, Source, UnixPathState, UnixSocketPath};

use super::Rule;
use super::words::{clock, list};
use crate::address::Address;
use crate::effect::Effect;
use crate::snapshot::{Listening, Place, Said, Snapshot};
use crate::verdict::{Blind, Cause, Confidence, Verdict};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "unix_socket.missing",
        summary: "nothing is at the path of the unix socket",
        doc: "ENOENT at once. The service is down and its RuntimeDirectory= gone, the path is an old one, or it was \
                removed under a service that still runs.",
        check: "ls -l {path}",
        fix: "start the service that makes {path}, or correct the path in the gateway's configuration",
        applies_to: |effect| matches!(effect, Effect::UnixConnect { fault: Fault::Enoent, .. }),
        judge: missing,
    },
    Rule {
        id: "unix_socket.permission",
        summary: "the gateway's user may not connect to the unix socket",
        doc: "EACCES at once: mode or owner of the socket, or of a directory above it; or SELinux.",
        check: "namei -l {path}",
        fix: "let the gateway's user in at {denied}: listen.owner/listen.group/listen.mode of the service, or its group",
        applies_to: |effect| matches!(effect, Effect::UnixConnect { fault: Fault::Eacces, .. }),
        judge: permission,
    },
    Rule {
        id: "unix_socket.stale",
        summary: "the unix socket's file is there, and nobody listens on it",
        doc: "Refused on a unix path: the service ended without removing its socket, or made a new one elsewhere.",
        check: "ss -xl | grep {path}; ls -l {path}",
        fix: "start the service again; let it remove its socket at its end (RuntimeDirectory= does)",
        applies_to: |effect| {
            matches!(effect, Effect::UnixConnect { fault: Fault::Econnrefused, .. })
        },
        judge: stale,
    },
    Rule {
        id: "unix_socket.backlog_full",
        summary: "the unix socket's accept queue is full",
        doc: "EAGAIN at once: a full unix queue does not wait as TCP does.",
        check: "ss -xl | grep {path}",
        fix: "more workers first; then raise listen.backlog of the service and net.core.somaxconn above {limit}",
        applies_to: |effect| matches!(effect, Effect::UnixConnect { fault: Fault::Eagain, .. }),
        judge: backlog_full,
    },
];

struct Path<'a> {
    place: Place<'a>,
    host: &'a str,
    path: &'a str,
    /// What the agent saw there at that moment, in the order of time; the last holds.
    state: Option<Said<'a, UnixSocketPath>>,
}

fn path<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Result<Path<'a>, Verdict<'a>> {
    let Effect::UnixConnect { place, during, .. } = *effect else { return Err(Verdict::NoSign) };
    let Address::Unix(address) = place.address else { return Err(Verdict::NoSign) };
    let Some(host) = place.host() else {
        let missing: Vec<Blind> = vec![super::network::nobody_there(place)];
        return Err(Verdict::Undecided { missing });
    };
    let state = snapshot
        .on::<UnixSocketPath>(host)
        .rfind(|state| state.what.address == address && state.at_us() <= during.to_us);
    Ok(Path { place, host, path: address.strip_prefix("unix:").unwrap_or(address), state })
}

/// The state while the failure lasted: the last of this kind that was not replaced before it.
fn state_was<'a>(
    snapshot: &'a Snapshot,
    found: &Path<'a>,
    effect: &Effect<'a>,
    is: impl Fn(&UnixSocketPath) -> bool,
) -> Option<Said<'a, UnixSocketPath>> {
    let during = effect.during();
    let mut held = None;
    for state in snapshot.on::<UnixSocketPath>(found.host) {
        let ours = state.what.address.strip_prefix("unix:").unwrap_or_default() == found.path;
        if !ours || state.at_us() > during.to_us {
            continue;
        }
        if is(state.what) {
            held = Some(state);
        } else if state.at_us() < during.from_us {
            held = None;
        }
    }
    held
}

fn missing<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let found = match path(snapshot, effect) {
        Ok(found) => found,
        Err(verdict) => return verdict,
    };
    let during = effect.during();
    let gone = state_was(snapshot, &found, effect, |s| s.state() == UnixPathState::Missing);
    let what = format!("there is no socket at {} on {}", found.path, found.host);
    let similar = gone.map(|gone| gone.what.similar.clone()).unwrap_or_default();
    let instead = if similar.is_empty() {
        String::new()
    } else {
        format!(" {} listens instead.", list(&similar))
    };
    let confidence = if gone.is_some() { Confidence::Proven } else { Confidence::Likely };
    let at_us = gone.map_or(during.at_us, |gone| gone.at_us());
    let mut cause = Cause::new(found.host, at_us, confidence, what.clone())
        .text(format!("{what} ({}).{instead}", clock(during.at_us)))
        .because(gone.map(|gone| gone.seen))
        .because(listener_end(snapshot, &found))
        .name("path", found.path)
        .next(Effect::NothingListens { place: found.place, during });
    if gone.is_none() {
        cause = cause.because(said_by_gateway(snapshot, &found, effect));
    }
    if let [other, ..] = similar.as_slice() {
        let declared = super::listener::declared_at(snapshot, &found.place);
        cause = cause.fix(format!(
            "change {} to {other} in the gateway's configuration{declared}",
            found.path
        ));
    }
    cause.explained()
}

/// Who listened there last, and its end.
fn listener_end<'a>(snapshot: &'a Snapshot, found: &Path<'a>) -> Option<&'a crate::Seen> {
    let own = snapshot.listeners(found.host).iter().rev().find(|l| l.takes(found.place.address))?;
    own.closed(snapshot).or_else(|| own.opened(snapshot))
}

/// The gateway's own report: an errno about a path says itself what is at the path.
fn said_by_gateway<'a>(
    snapshot: &'a Snapshot,
    found: &Path<'a>,
    effect: &Effect<'a>,
) -> Option<&'a crate::Seen> {
    let Effect::UnixConnect { fault, during, .. } = *effect else { return None };
    snapshot
        .on::<why502_proto::v1::RequestFailed>(found.place.gateway)
        .filter(|failed| {
            failed.what.endpoint == found.place.endpoint && failed.what.fault() == fault
        })
        .rfind(|failed| failed.at_us() <= during.to_us)
        .map(|failed| failed.seen)
}

fn stale<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let found = match path(snapshot, effect) {
        Ok(found) => found,
        Err(verdict) => return verdict,
    };
    let during = effect.during();
    let state = state_was(snapshot, &found, effect, |s| s.state() == UnixPathState::Stale);
    if state.is_none()
        && let Listening::Covered(listener) =
            snapshot.listening(found.host, found.place.address, during)
    {
        return Verdict::RuledOut {
            by: listener.opened(snapshot).into_iter().collect(),
            text: format!("{} listened on {} all the time.", listener.owner(), found.path),
        };
    }
    let what = format!("nobody listens on the socket at {} on {}", found.path, found.host);
    let confidence = if state.is_some() { Confidence::Proven } else { Confidence::Likely };
    let at_us = state.map_or(during.at_us, |state| state.at_us());
    Cause::new(found.host, at_us, confidence, what.clone())
        .text(format!("{what}: its file was left behind ({}).", clock(during.at_us)))
        .because(state.map(|state| state.seen))
        .because(said_by_gateway(snapshot, &found, effect).filter(|_| state.is_none()))
        .because(listener_end(snapshot, &found))
        .name("path", found.path)
        .next(Effect::NothingListens { place: found.place, during })
        .explained()
}

fn permission<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let found = match path(snapshot, effect) {
        Ok(found) => found,
        Err(verdict) => return verdict,
    };
    let during = effect.during();
    let denied = state_was(snapshot, &found, effect, |s| !s.denied_at.is_empty())
        .or(found.state.filter(|state| closed_to_client(state.what)));
    let Some(denied) = denied else {
        let told = format!("who may connect to {}", found.path);
        let sources = [Source::Listener];
        let seeing = snapshot.first_blind(found.host, &sources, during.at_us, &told);
        let blind = seeing.unwrap_or_else(|| Blind {
            host: found.host.to_owned(),
            source: "mac",
            since_us: None,
            text: format!(
                "why {} is denied although its modes allow it: SELinux or AppArmor, which no source looks at yet",
                found.path
            ),
        });
        return Verdict::Undecided { missing: vec![blind] };
    };
    let state = denied.what;
    let at = if state.denied_at.is_empty() { found.path } else { &state.denied_at };
    let (mode, uid, gid) = if state.denied_at.is_empty() || state.denied_at == found.path {
        (state.mode, state.uid, state.gid)
    } else {
        (state.denied_mode, state.denied_uid, state.denied_gid)
    };
    let client = state.client_uid.map_or_else(
        || "the gateway's user".to_owned(),
        |uid| format!("the gateway's user (uid {uid})"),
    );
    let right = if at == found.path { "write to" } else { "pass" };
    let what = format!("{client} may not {right} {at} on {}", found.host);
    Cause::new(found.host, denied.at_us(), Confidence::Proven, what.clone())
        .text(format!("{what}: its mode is {mode:04o}, owner {uid}, group {gid}."))
        .because([denied.seen])
        .because(said_by_gateway(snapshot, &found, effect))
        .name("path", found.path)
        .name("denied", at)
        .explained()
}

/// By mode, owner and group of the socket itself: connecting needs the right to write (unix(7)).
fn closed_to_client(state: &UnixSocketPath) -> bool {
    let Some(uid) = state.client_uid else { return false };
    if uid == 0 || state.state() != UnixPathState::Alive {
        return false;
    }
    let bit = if uid == state.uid {
        0o200
    } else if state.client_gids.contains(&state.gid) {
        0o020
    } else {
        0o002
    };
    state.mode & bit == 0
}

fn backlog_full<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let found = match path(snapshot, effect) {
        Ok(found) => found,
        Err(verdict) => return verdict,
    };
    let during = effect.during();
    let listener = snapshot
        .listeners(found.host)
        .iter()
        .rev()
        .find(|l| l.takes(found.place.address) && l.from_us <= during.at_us);
    let queue = listener
        .map(|l| super::capacity::queue(snapshot, found.host, l, during.from_us, during.to_us));
    let full = queue.and_then(|queue| queue.full.or(queue.waiting));
    let limit = full.map(|said| said.what.limit).or(listener.map(|l| l.queue_limit)).unwrap_or(0);
    let owner = listener.map_or_else(|| "its service".to_owned(), |l| l.owner());
    let what = format!("the accept queue of {owner} at {} on {} is full", found.path, found.host);
    let takes = if limit > 0 { format!(" It takes {limit}.") } else { String::new() };
    // EAGAIN on connecting to a unix socket has this one meaning (unix(7)); the queue itself may have moved on.
    let confidence = if full.is_some() { Confidence::Proven } else { Confidence::Likely };
    let mut cause = Cause::new(found.host, during.at_us, confidence, what.clone())
        .text(format!("{what} ({}).{takes}", clock(during.at_us)))
        .because(full.map(|said| said.seen))
        .because(said_by_gateway(snapshot, &found, effect))
        .name("path", found.path)
        .name("limit", limit.to_string());
    if let Some(listener) = listener {
        cause = cause.next(Effect::Busy { host: found.host, listener, during });
    }
    cause.explained()
}
