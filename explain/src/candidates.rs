//! What may be behind a failure of which only the gateway's words are known, as where somebody has
//! nothing but a log.
//!
//! The rules themselves say what they look at, so a new rule is a candidate without being named
//! here. What follows from what ([`following`]) is told by example: the effects that rules hand on
//! are made up once, for a host that nobody sees.

use why502_proto::v1::{self, Fault, Phase, RequestFailed};
use why502_proto::{FactId, Kind};

use crate::address::Address;
use crate::effect::{Effect, Role, Tie, window};
use crate::rule::{Rule, catalog};
use crate::snapshot::{Listener, Place, Said, Seen, Snapshot};

/// A cause that may be behind a failure.
#[derive(Clone, Copy, Debug)]
pub struct Candidate {
    /// Which.
    pub rule: &'static Rule,
    /// How many links it is away from what the gateway felt: 0 is the nearest.
    pub links: u8,
}

/// What may be behind a failure, and how to find out which it is.
#[derive(Clone, Debug)]
pub struct Candidates {
    /// Nearest first, then in the order of the catalogue.
    pub causes: Vec<Candidate>,
    /// What the one check is that separates most of them, in words.
    pub separator: &'static str,
    /// That check as a command; `{endpoint}`, `{host}`, `{port}` and `{path}` stand for what the
    /// failure names.
    pub check: &'static str,
}

/// Longest way from a symptom to its root: no socket, not running, killed.
const LINKS_MAX: u8 = 2;

/// A moment, so that windows before it are not negative.
const NOW_US: i64 = 1_000_000_000_000_000;

/// Where a failure that names no peer is taken to have gone: TEST-NET-1 (RFC 5737).
const SOMEWHERE: &str = "192.0.2.1:80";

/// Causes that only an address with a port can have: a unix socket has no interface, no port and no
/// firewall.
const TCP_ONLY: [&str; 4] = ["listener.", "firewall.", "gateway.upstream_", "process.starting_"];

/// What may be behind `failed`, of which phase, fault, endpoint and status count.
pub fn candidates(failed: &RequestFailed) -> Candidates {
    let snapshot = made_up(failed);
    let unix = failed.endpoint.starts_with("unix:");
    let mut effects = asked(&snapshot);
    let (separator, check) = effects.first().map_or(NOTHING, |effect| separator(effect, failed));
    let mut causes: Vec<Candidate> = Vec::new();
    for links in 0..=LINKS_MAX {
        for rule in catalog() {
            let known = causes.iter().any(|cause| cause.rule.id == rule.id);
            let impossible = unix && TCP_ONLY.iter().any(|family| rule.id.starts_with(family));
            if !known && !impossible && effects.iter().any(|effect| (rule.applies_to)(effect)) {
                causes.push(Candidate { rule, links });
            }
        }
        effects = effects.iter().flat_map(|effect| following(&snapshot, effect)).collect();
    }
    Candidates { causes, separator, check }
}

/// A gateway that said this, and an origin with a listener and a worker that died, which nobody
/// watches.
fn made_up(failed: &RequestFailed) -> Snapshot {
    let mut failed = failed.clone();
    if failed.endpoint.is_empty() && !matches!(failed.phase(), Phase::Select | Phase::Resolve) {
        SOMEWHERE.clone_into(&mut failed.endpoint);
    }
    let listener = v1::ListenerOpened { address: "0.0.0.0:80".into(), ..Default::default() };
    let exited = v1::ProcessExited { pid: 2, ..Default::default() };
    let facts = [
        ("gateway", Kind::RequestFailed(failed)),
        ("origin", Kind::ListenerOpened(listener)),
        ("origin", Kind::ProcessExited(exited)),
    ];
    let seen = facts.into_iter().zip(1..).map(|((host, kind), seq)| Seen {
        id: FactId { host: host.to_owned(), boot: "boot".to_owned(), seq },
        at_us: NOW_US,
        tolerance_us: 0,
        boottime_us: 1_000_000_000,
        kind,
    });
    Snapshot::new(seen.collect(), NOW_US)
}

/// What the failure asks for: more than one thing where the gateway says only that it failed.
fn asked(snapshot: &Snapshot) -> Vec<Effect<'_>> {
    let failed = snapshot.on::<RequestFailed>("gateway").next();
    let Some((gateway, failed)) = snapshot.host_name("gateway").zip(failed) else {
        return Vec::new();
    };
    let vague = match failed.what.phase() {
        Phase::Unspecified => matches!(failed.what.fault(), Fault::Unspecified | Fault::Timeout),
        Phase::Connect | Phase::Send | Phase::Header => failed.what.fault() == Fault::Unspecified,
        _ => false,
    };
    let place = snapshot.place(gateway, &failed.what.endpoint, failed.at_us());
    match place.filter(|_| vague) {
        Some(place) => all_of(place, failed),
        None => {
            let effect = Effect::of_failure(snapshot, gateway, failed);
            // Most gateways do not say whether the connection was used before, so it may have been.
            let reused = match effect {
                Some(Effect::ConnectionLost { place, during, reused: None }) => {
                    Some(Effect::ConnectionLost { place, during, reused: Some(true) })
                }
                _ => None,
            };
            effect.into_iter().chain(reused).collect()
        }
    }
}

fn all_of<'a>(place: Place<'a>, failed: Said<'a, RequestFailed>) -> Vec<Effect<'a>> {
    let during = window(failed);
    let phase = failed.what.phase();
    let late = failed.what.status == Some(504) || failed.what.fault() == Fault::Timeout;
    let mut all = Vec::new();
    if matches!(phase, Phase::Connect | Phase::Unspecified) {
        match place.address {
            _ if late => all.push(Effect::ConnectTimeout { place, during }),
            Address::Unix(_) => {
                let faults = [Fault::Enoent, Fault::Econnrefused, Fault::Eacces, Fault::Eagain];
                all.extend(faults.map(|fault| Effect::UnixConnect { place, during, fault }));
            }
            _ => all.push(Effect::NothingListens { place, during }),
        }
    }
    match phase {
        Phase::Connect => {}
        _ if late => all.push(Effect::NoAnswer { place, during, failed }),
        _ => all.push(Effect::ConnectionLost { place, during, reused: None }),
    }
    all
}

/// What rules hand on from there.
fn following<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Vec<Effect<'a>> {
    let listener = || snapshot.listeners("origin").first();
    let host = "origin";
    let busy = |listener: &'a Listener, during| Effect::Busy { host, listener, during };
    match *effect {
        Effect::NothingListens { place, during } => {
            let tie = Tie::OnlyOneLeft;
            let elsewhere =
                listener().map(|listener| Effect::Elsewhere { place, listener, during, tie });
            let down = Effect::Down { host, unit: "", death: None, during };
            let taken = Effect::PortTaken { host, unit: "", during };
            [down, taken].into_iter().chain(elsewhere).collect()
        }
        Effect::UnixConnect { during, fault: Fault::Eagain, .. } => {
            listener().map(|listener| busy(listener, during)).into_iter().collect()
        }
        Effect::UnixConnect { fault: Fault::Eacces, .. } => Vec::new(),
        Effect::UnixConnect { place, during, .. } => vec![Effect::NothingListens { place, during }],
        Effect::ConnectTimeout { place, during } => {
            let busy = listener().map(|listener| busy(listener, during));
            busy.into_iter().chain([Effect::PathLost { place, during }]).collect()
        }
        Effect::ConnectionLost { during, .. } => {
            let worker = |death| Effect::Ended { host, death, during, role: Role::Worker };
            let worker = snapshot.deaths(host).first().map(worker);
            let down = Effect::Down { host, unit: "", death: None, during };
            worker.into_iter().chain([down]).collect()
        }
        Effect::Failed { place: Some(place), during, failed, .. }
            if failed.what.fault() == Fault::Ehostunreach =>
        {
            vec![Effect::PathLost { place, during }]
        }
        _ => Vec::new(),
    }
}

const NOTHING: (&str, &str) =
    ("the gateway's error log of that moment says what it felt", "curl -sv http://{endpoint}/");

/// The one check that separates most of what may be behind an effect.
fn separator(effect: &Effect<'_>, failed: &RequestFailed) -> (&'static str, &'static str) {
    if failed.phase() == Phase::Unspecified
        && matches!(failed.fault(), Fault::Unspecified | Fault::Timeout)
    {
        return NOTHING;
    }
    match effect {
        Effect::NothingListens { .. } => (
            "does anything listen there? Nothing: the service is down or on another port. 127.0.0.1 only: it is bound to \
             loopback. That very address: a firewall rejects",
            "ss -ltnp 'sport = :{port}'   # on {host}",
        ),
        Effect::UnixConnect { .. } => (
            "is there a socket, who may write to it, and does anybody listen on it?",
            "ls -l {path}; ss -xlp src {path}",
        ),
        Effect::ConnectTimeout { .. } => (
            "is its queue full (Recv-Q above Send-Q, ListenDrops grow), or does nothing arrive there?",
            "ss -ltn 'sport = :{port}'; nstat -az TcpExtListenDrops   # on {host}",
        ),
        Effect::ConnectionLost { .. } => (
            "did a process of the service end within two seconds of the failure? If not, it closed on purpose: compare its \
             keep-alive time with the gateway's",
            "journalctl --since -1h -o short-precise -g 'exited|killed|segfault|oom|timeout'   # on {host}",
        ),
        Effect::NoAnswer { .. } | Effect::Busy { .. } => (
            "do connections wait in its queue (all workers busy, or hung), or is only this request slow?",
            "ss -ltn 'sport = :{port}'; ps -o pid,stat,wchan:24,etime,cmd -C SERVICE   # on {host}",
        ),
        Effect::NoPeer { .. } => (
            "what each peer failed of in the seconds before, in the same log",
            "grep -B20 'no live upstreams' error.log",
        ),
        Effect::Relayed { .. } => (
            "what stands at the endpoint is a gateway itself: its own log has the failure",
            "curl -si http://{endpoint}/ -o /dev/null -w '%{http_code}\\n'",
        ),
        _ => by_fault(failed.fault()),
    }
}

fn by_fault(fault: Fault) -> (&'static str, &'static str) {
    match fault {
        Fault::Ehostunreach
        | Fault::Enetunreach
        | Fault::Enetdown
        | Fault::Einval
        | Fault::Eacces => (
            "which way does the gateway take, and does anybody answer there?",
            "ip route get {host}; ip neigh show {host}   # on the gateway",
        ),
        Fault::Eaddrnotavail => (
            "are the local ports for that address used up, or is the address to connect from missing?",
            "ss -Htan dst {host} | wc -l; sysctl net.ipv4.ip_local_port_range; ip -br address   # on the gateway",
        ),
        Fault::Emfile | Fault::Enfile => (
            "whose limit is it?",
            "grep 'open files' /proc/PID/limits; ls /proc/PID/fd | wc -l; cat /proc/sys/fs/file-nr   # on the gateway",
        ),
        Fault::TlsHandshake | Fault::TlsCertificate => (
            "what the endpoint shows of itself in a handshake",
            "openssl s_client -connect {endpoint} -servername {host} < /dev/null",
        ),
        Fault::DnsNotFound | Fault::DnsFailed | Fault::DnsTimeout | Fault::NoResolver => (
            "what the gateway's own resolver answers",
            "dig {host} @RESOLVER   # the resolver that the gateway's configuration names",
        ),
        Fault::WrongProtocol | Fault::HeaderInvalid | Fault::HeaderTooBig | Fault::BodyInvalid => (
            "what the endpoint answers, byte by byte",
            "curl -sv --http0.9 http://{endpoint}/ -o - | head -c 600 | xxd",
        ),
        Fault::Enospc => ("is the gateway's disk full?", "df -h; df -i   # on the gateway"),
        Fault::ConnectionLimit => {
            ("is the gateway's own limit reached?", "ss -s   # on the gateway")
        }
        _ => NOTHING,
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    #[track_caller]
    fn check(phase: Phase, fault: Fault, endpoint: &str, status: u32, expected: Expect) {
        let failed = RequestFailed {
            phase: phase.into(),
            fault: fault.into(),
            endpoint: endpoint.to_owned(),
            status: Some(status),
            ..RequestFailed::default()
        };
        let found = candidates(&failed);
        let by_links = |links| {
            let causes = found.causes.iter().filter(|cause| cause.links == links);
            causes.map(|cause| cause.rule.id).collect::<Vec<_>>().join(" ")
        };
        let text: String = (0..=LINKS_MAX).map(|links| format!("{}\n", by_links(links))).collect();
        expected.assert_eq(&format!("{text}{}", found.check));
    }

    #[test]
    fn refused() {
        check(
            Phase::Connect,
            Fault::Econnrefused,
            "10.0.0.7:80",
            502,
            expect![[r#"
                dns.stale process.not_running process.starting_slow listener.bound_to_loopback listener.wrong_interface listener.wrong_family listener.wrong_netns listener.absent_port firewall.reject
                process.oom_killed.cgroup process.oom_killed.global process.oom_killed.oomd disk_full.origin process.watchdog_killed runtime.heap_exhausted process.crashed.signal process.killed_external process.restarting process.start_failed systemd.start_limit_hit process.restart_loop listener.taken_by_other gateway.upstream_port_mismatch

                ss -ltnp 'sport = :{port}'   # on {host}"#]],
        );
    }

    #[test]
    fn no_socket_at_that_path() {
        check(
            Phase::Connect,
            Fault::Enoent,
            "unix:/run/a.sock",
            502,
            expect![[r#"
                unix_socket.missing
                dns.stale process.not_running
                process.oom_killed.cgroup process.oom_killed.global process.oom_killed.oomd disk_full.origin process.watchdog_killed runtime.heap_exhausted process.crashed.signal process.killed_external process.restarting process.start_failed systemd.start_limit_hit process.restart_loop
                ls -l {path}; ss -xlp src {path}"#]],
        );
    }

    #[test]
    fn closed_before_the_answer() {
        check(
            Phase::Header,
            Fault::Closed,
            "",
            502,
            expect![[r#"
                fd.exhausted.origin pids_limit.hit process.not_running worker.killed_by_timeout worker.crashed keepalive.race
                process.oom_killed.cgroup process.oom_killed.global process.oom_killed.oomd disk_full.origin process.watchdog_killed runtime.heap_exhausted process.crashed.signal process.killed_external process.restarting process.start_failed systemd.start_limit_hit process.restart_loop

                journalctl --since -1h -o short-precise -g 'exited|killed|segfault|oom|timeout'   # on {host}"#]],
        );
    }

    #[test]
    fn no_answer_in_time() {
        check(
            Phase::Header,
            Fault::Timeout,
            "app:80",
            504,
            expect![[r#"
                memory.pressure fd.exhausted.origin pids_limit.hit cpu.throttled process.hung.stopped process.hung.blocked workers.saturated upstream.slow_app


                ss -ltn 'sport = :{port}'; ps -o pid,stat,wchan:24,etime,cmd -C SERVICE   # on {host}"#]],
        );
    }

    #[test]
    fn no_connection_in_time() {
        check(
            Phase::Connect,
            Fault::Timeout,
            "10.0.0.7:80",
            504,
            expect![[r#"
                dns.stale conntrack.table_full firewall.drop.origin firewall.drop.gateway link.down gateway.upstream_address_mismatch neighbor.unreachable accept_queue.overflow
                memory.pressure fd.exhausted.origin pids_limit.hit cpu.throttled process.hung.stopped process.hung.blocked host.down workers.saturated

                ss -ltn 'sport = :{port}'; nstat -az TcpExtListenDrops   # on {host}"#]],
        );
    }

    #[test]
    fn only_the_status_is_known() {
        check(
            Phase::Unspecified,
            Fault::Unspecified,
            "",
            504,
            expect![[r#"
                dns.stale memory.pressure fd.exhausted.origin pids_limit.hit cpu.throttled conntrack.table_full process.hung.stopped process.hung.blocked firewall.drop.origin firewall.drop.gateway link.down gateway.upstream_address_mismatch neighbor.unreachable workers.saturated accept_queue.overflow upstream.slow_app
                host.down

                curl -sv http://{endpoint}/"#]],
        );
    }

    #[test]
    fn every_fault_has_a_check() {
        for phase in (0..8).filter_map(|phase| Phase::try_from(phase).ok()) {
            for fault in (0..64).filter_map(|fault| Fault::try_from(fault).ok()) {
                let failed = RequestFailed {
                    phase: phase.into(),
                    fault: fault.into(),
                    ..RequestFailed::default()
                };
                assert!(!candidates(&failed).check.is_empty());
            }
        }
    }
}
