//! The gateway's own host lacks what a connection needs.

use why502_proto::v1::{EphemeralPorts, Fault};

use super::Rule;
use crate::effect::Effect;
use crate::snapshot::Snapshot;
use crate::verdict::{Cause, Confidence, Verdict};

/// Ports are counted when a failure is seen, and at most every 5 s.
const COUNTED_NEAR_US: i64 = 6_000_000;
/// Percent of the range that one destination has taken when no port is found any more: the rest is
/// reserved, or bound by others.
const TAKEN_PERCENT: u64 = 80;

pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "gateway.bind_source_missing",
        summary: "the gateway is to connect from an address that its host does not have",
        doc: "\"Cannot assign requested address\" (99) from bind: proxy_bind, source or its like names it.",
        check: "ip -br address",
        fix: "give {host} the address that the gateway's configuration wants to connect from, or take it out",
        applies_to: |effect| failed(effect, &[Fault::Eaddrnotavail]),
        judge: bind_source,
    },
    Rule {
        id: "ephemeral_ports.exhausted",
        summary: "the gateway's host has no local port left for that endpoint",
        doc: "\"Cannot assign requested address\" (99) from connect: one destination has all ports of \
                net.ipv4.ip_local_port_range, mostly in TIME_WAIT because every request opens a connection.",
        check: "ss -tan dst {address} | wc -l; sysctl net.ipv4.ip_local_port_range",
        fix: "let the gateway keep connections to {address} alive; or widen net.ipv4.ip_local_port_range",
        applies_to: |effect| failed(effect, &[Fault::Eaddrnotavail]),
        judge: ports,
    },
    Rule {
        id: "fd.exhausted.gateway",
        summary: "the gateway has no file descriptor left",
        doc: "\"Too many open files\" (24) where the gateway opens its connection: clients see 500 from nginx. Each \
                proxied request takes two.",
        check: "grep 'open files' /proc/$(pgrep -o {gateway})/limits",
        fix: "raise the limit of open files of {gateway} (nginx: worker_rlimit_nofile; else LimitNOFILE= of its unit)",
        applies_to: |effect| failed(effect, &[Fault::Emfile]),
        judge: own_files,
    },
    Rule {
        id: "fd.exhausted.system",
        summary: "the gateway's host has no file descriptor left",
        doc: "\"Too many open files in system\" (23): fs.file-max is reached.",
        check: "cat /proc/sys/fs/file-nr",
        fix: "raise fs.file-max of {host}, or find who holds the files",
        applies_to: |effect| failed(effect, &[Fault::Enfile]),
        judge: own_files,
    },
];

fn failed(effect: &Effect<'_>, faults: &[Fault]) -> bool {
    matches!(effect, Effect::Failed { failed, .. } if faults.contains(&failed.what.fault()))
}

/// The gateway names the call that failed.
fn says_bind(message: &str) -> bool {
    message.starts_with("bind(") || message.contains(" bind(") || message.contains("bind to source")
}

fn bind_source<'a>(_: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Failed { gateway, failed, .. } = *effect else { return Verdict::NoSign };
    if !says_bind(&failed.what.message) {
        return Verdict::NoSign;
    }
    let what = format!("{gateway} lacks the address that its gateway is to connect from");
    Cause::new(gateway, failed.at_us(), Confidence::Proven, what.clone())
        .text(format!("{what}: \"{}\".", failed.what.message))
        .because([failed.seen])
        .name("host", gateway)
        .explained()
}

fn ports<'a>(snapshot: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Failed { gateway, place: Some(place), failed, during } = *effect else {
        return Verdict::NoSign;
    };
    if says_bind(&failed.what.message) {
        return Verdict::NoSign;
    }
    let counted = snapshot
        .on::<EphemeralPorts>(gateway)
        .filter(|counted| counted.what.destination == place.endpoint)
        .filter(|counted| (counted.at_us() - during.at_us).abs() <= COUNTED_NEAR_US)
        .min_by_key(|counted| ((counted.at_us() - during.at_us).abs(), &counted.seen.id));
    let what = format!("{gateway} has no local port left for {}", place.endpoint);
    let Some(counted) = counted else {
        return Cause::new(gateway, failed.at_us(), Confidence::Likely, what)
            .because([failed.seen])
            .name("address", place.endpoint)
            .explained();
    };
    let ports = counted.what;
    let size = u64::from(ports.range_last.saturating_sub(ports.range_first)) + 1;
    if u64::from(ports.used) * 100 < size * TAKEN_PERCENT {
        return Verdict::RuledOut {
            by: vec![counted.seen],
            text: format!("Only {} of {size} local ports are taken.", ports.used),
        };
    }
    let text = format!(
        "{what}: {} of the {size} ports {}-{} are taken, {} of them in TIME_WAIT.",
        ports.used, ports.range_first, ports.range_last, ports.time_wait
    );
    Cause::new(gateway, failed.at_us(), Confidence::Proven, what)
        .text(text)
        .because([failed.seen, counted.seen])
        .name("address", place.endpoint)
        .explained()
}

fn own_files<'a>(_: &'a Snapshot, effect: &Effect<'a>) -> Verdict<'a> {
    let Effect::Failed { gateway, failed, .. } = *effect else { return Verdict::NoSign };
    let program = &failed.what.gateway;
    let what = if failed.what.fault() == Fault::Enfile {
        format!("{gateway} has no file descriptor left for anybody")
    } else {
        format!("{program} on {gateway} has no file descriptor left")
    };
    Cause::new(gateway, failed.at_us(), Confidence::Proven, what.clone())
        .text(format!("{what}: \"{}\".", failed.what.message))
        .because([failed.seen])
        .name("gateway", program.clone())
        .name("host", gateway)
        .explained()
}
