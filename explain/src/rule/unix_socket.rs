//! Unix sockets: the path, its rights, and its queue.

use why502_proto::Kind;
use why502_proto::v1::{Fault, Source, UnixPathState, UnixSocketPath};

use crate::address::Address;
use crate::effect::{Effect, Holder, Symptom};
use crate::find::{self, SLACK_US};
use crate::rule::process::is_down;
use crate::rule::{Cause, Confidence, Rule, Verdict};
use crate::snapshot::{Seen, Snapshot};

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "unix_socket.missing",
        summary: "there is no socket at the path that the gateway has",
        doc: "ENOENT. The service is down and its runtime directory gone, or the path is another one (a new PHP version, PrivateTmp).",
        check: "ls -l PATH; ss -xl",
        fix: "make the two paths equal, or start the service",
        applies_to: on_unix,
        judge: missing,
    },
    Rule {
        id: "unix_socket.permission",
        summary: "the gateway may not connect to the socket",
        doc: "EACCES: the user of the gateway's workers lacks write on the socket or search on a directory above it.",
        check: "namei -l PATH",
        fix: "let the gateway's user in: socket owner, group and mode in the app server's configuration",
        applies_to: on_unix,
        judge: permission,
    },
    Rule {
        id: "unix_socket.stale",
        summary: "the socket file is there, and nobody listens on it",
        doc: "ECONNREFUSED on a unix path: the file outlived its process, or another one took its place.",
        check: "ss -xl | grep PATH",
        fix: "restart the service; it makes the socket anew",
        applies_to: on_unix,
        judge: stale,
    },
    Rule {
        id: "unix_socket.backlog_full",
        summary: "the socket's accept queue is full",
        doc: "EAGAIN at once. A full TCP queue looks like a time-out instead.",
        check: "ss -xl",
        fix: "more workers first, then a larger listen backlog and net.core.somaxconn",
        applies_to: on_unix,
        judge: backlog_full,
    },
];

fn on_unix(effect: &Effect<'_>) -> bool {
    matches!(effect, Effect::Symptom(symptom)
        if matches!(symptom.addresses.first(), Some(Address::Unix(_))))
}

fn path_at<'a>(
    snapshot: &'a Snapshot,
    symptom: &Symptom<'a>,
    fits: fn(&UnixSocketPath) -> bool,
) -> Option<(&'a Seen, &'a UnixSocketPath)> {
    let wanted = format!("unix:{}", path(symptom));
    let mut at_time = None;
    for fact in snapshot.of_host(symptom.gateway) {
        let Kind::UnixSocketPath(state) = &fact.kind else { continue };
        if state.address != wanted {
            continue;
        }
        if fact.at_us <= symptom.at_us || fact.at_us - symptom.at_us <= 2 * SLACK_US && fits(state)
        {
            at_time = Some((fact, state));
        }
    }
    at_time.filter(|(_, state)| fits(state))
}

fn path(symptom: &Symptom<'_>) -> String {
    match symptom.addresses.first() {
        Some(Address::Unix(path)) => path.clone(),
        _ => String::new(),
    }
}

/// What the gateway's own words prove without the agent's look at the path.
fn cause<'a>(symptom: &Symptom<'a>, seen: Option<&'a Seen>, text: String) -> Cause<'a> {
    let evidence: Vec<&Seen> = seen.into_iter().chain(symptom.failures.last().copied()).collect();
    Cause {
        host: symptom.gateway.to_owned(),
        at_us: seen.map_or(symptom.at_us, |fact| fact.at_us),
        text,
        confidence: if seen.is_some() { Confidence::Proven } else { Confidence::Likely },
        evidence,
        next: None,
        check: format!("ls -l {}; ss -xl", path(symptom)),
        fix: String::new(),
    }
}

fn missing<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Symptom(symptom) = effect else { return Verdict::Silent };
    if symptom.fault != Fault::Enoent {
        return Verdict::Silent;
    }
    let seen = path_at(snapshot, symptom, |state| state.state() == UnixPathState::Missing);
    let wanted = path(symptom);
    let mut found =
        cause(symptom, seen.map(|(fact, _)| fact), format!("there is no socket at {wanted}"));
    let address = Address::Unix(wanted.clone());
    let closed = find::last_closed(snapshot, symptom.gateway, &address, symptom.at_us);
    let unit = closed.and_then(|(_, closed)| {
        find::unit(snapshot, symptom.gateway, &closed.unit, symptom.at_us + SLACK_US)
    });
    let similar = seen.map(|(_, state)| state.similar.clone()).unwrap_or_default();
    found.fix = match (unit, similar.first()) {
        (Some((_, state)), _) if is_down(state) => format!("systemctl start {}", state.unit),
        (_, Some(other)) => {
            found.text = format!("{}; {other} is there", found.text);
            match symptom.declared {
                Some((_, declared)) => {
                    format!("name {other} in {}:{}", declared.file, declared.line)
                }
                None => format!("name {other} in the gateway"),
            }
        }
        _ => "start the service that makes the socket, or mend the path in the gateway".to_owned(),
    };
    Verdict::Explained(found)
}

fn permission<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Symptom(symptom) = effect else { return Verdict::Silent };
    if symptom.fault != Fault::Eacces {
        return Verdict::Silent;
    }
    let seen = path_at(snapshot, symptom, |state| !state.denied_at.is_empty());
    let Some((fact, state)) = seen else {
        let tell = "which path component denies it";
        return match find::blind(snapshot, symptom.gateway, Source::Listener, symptom.at_us, tell) {
            Some(missing) => Verdict::Undecided(missing),
            None => Verdict::Silent,
        };
    };
    let mut found = cause(
        symptom,
        Some(fact),
        format!(
            "user {} of the gateway may not use {}: mode 0{:o}, owner {}:{}",
            state.client_uid.unwrap_or_default(),
            state.denied_at,
            state.denied_mode,
            state.denied_uid,
            state.denied_gid
        ),
    );
    found.check = format!("namei -l {}", path(symptom));
    found.fix = format!(
        "let the gateway's user write to the socket (listen.owner, listen.group, listen.mode, or its \
         group) and search {}",
        state.denied_at
    );
    Verdict::Explained(found)
}

fn stale<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Symptom(symptom) = effect else { return Verdict::Silent };
    if !symptom.refused() {
        return Verdict::Silent;
    }
    let Some((fact, _)) = path_at(snapshot, symptom, |state| state.state() == UnixPathState::Stale)
    else {
        return Verdict::Silent;
    };
    let wanted = path(symptom);
    let mut found =
        cause(symptom, Some(fact), format!("{wanted} is there, and nobody listens on it any more"));
    found.fix =
        match find::last_closed(snapshot, symptom.gateway, &Address::Unix(wanted), symptom.at_us) {
            Some((_, closed)) if !closed.unit.is_empty() => {
                format!("systemctl restart {}", closed.unit)
            }
            _ => "restart the service; it makes its socket anew".to_owned(),
        };
    Verdict::Explained(found)
}

fn backlog_full<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Symptom(symptom) = effect else { return Verdict::Silent };
    if symptom.fault != Fault::Eagain {
        return Verdict::Silent;
    }
    let wanted = symptom.endpoint.clone();
    let queue = snapshot
        .between(symptom.gateway, symptom.at_us - 60_000_000, symptom.at_us + 2 * SLACK_US)
        .rev()
        .find_map(|fact| match &fact.kind {
            Kind::AcceptQueue(queue) if queue.address == wanted && queue.full => {
                Some((fact, queue))
            }
            _ => None,
        });
    let address = Address::Unix(path(symptom));
    let open = find::covering(snapshot, symptom.gateway, &address, symptom.at_us);
    let numbers = queue.map_or_else(String::new, |(_, queue)| {
        format!(": {} waiting, {} allowed", queue.depth, queue.limit)
    });
    let mut found = cause(
        symptom,
        queue.map(|(fact, _)| fact).or(open.as_ref().map(|open| open.fact)),
        format!("the accept queue of {wanted} is full{numbers}"),
    );
    found.next = open.map(|open| {
        Effect::QueueStuck(Holder {
            host: symptom.gateway,
            address: wanted,
            unit: open.listener.unit.clone(),
            pid: open.listener.pid,
            at_us: symptom.at_us,
            listener: open.fact,
        })
    });
    found.check = "ss -xl".to_owned();
    found.fix = "more workers first; then a larger listen backlog, and net.core.somaxconn with it"
        .to_owned();
    Verdict::Explained(found)
}
