//! Lines of access logs, of Envoy's own log, and of the event logs of health checks and outlier detection.

use std::sync::Arc;

use jiff::Timestamp;
use why502_proto::v1::{self, Fault, Phase};

use super::NAME;
use super::cluster::Cluster;
use super::format::{Entry, Format};
use super::meaning::{Said, failure};
use super::model::{Model, Way};
use crate::lines::{Lines, Told, What};
use crate::redact;

/// A format of an access log, and whether it has every request: with a filter it has not, and is no base for counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Access {
    pub(super) format: Format,
    pub(super) all: bool,
}

/// Reads everything that goes to one place.
#[derive(Debug)]
pub(super) struct EnvoyLines {
    pub(super) formats: Vec<Access>,
    pub(super) model: Arc<Model>,
    pub(super) instance: String,
}

impl EnvoyLines {
    /// For lines of which nothing is known.
    pub(super) fn usual() -> Self {
        let formats = Format::usual().into_iter().map(|format| Access { format, all: true });
        Self { formats: formats.collect(), model: Arc::default(), instance: String::new() }
    }

    fn entry(&self, line: &str) -> Option<(Entry, bool)> {
        let json =
            if line.starts_with('{') { Some(serde_json::from_str(line).ok()?) } else { None };
        self.formats.iter().find_map(|access| {
            access.format.read(line, json.as_ref()).map(|entry| (entry, access.all))
        })
    }

    fn access(&self, entry: &Entry, all: bool, told: &mut Vec<Told>) {
        let peer = peer(&entry.peer);
        let path = entry.path.split(['?', '#']).next().unwrap_or("");
        let code = entry.code.parse::<u16>().unwrap_or(0);
        let tcp = entry.method.is_empty() && entry.protocol.is_empty() && code == 0;
        let (route, cluster) = self.model.find(Way {
            authority: &entry.authority,
            path,
            peer: &peer,
            cluster: &entry.cluster,
            port: port(&entry.local),
            tcp,
        });
        let failed = meaning(entry, code, cluster.map(|(_, cluster)| cluster));
        let relayed = failed == Some((Phase::Header, Fault::Relayed));
        let name = match route {
            Some(route) => route.name.clone(),
            None if tcp => String::new(),
            None => redact::line(format!("{}{path}", entry.authority)),
        };
        let at_us = at_us(entry);
        let passed = !peer.is_empty()
            || failed.is_some()
            || route.is_some_and(|route| !route.clusters.is_empty());
        if let Some((phase, fault)) = failed {
            let message = [entry.flags.as_str(), &entry.details, &entry.transport];
            let message = message.into_iter().filter(|text| !text.is_empty() && *text != "-");
            let what = What::Failed(v1::RequestFailed {
                gateway: NAME.to_owned(),
                instance: self.instance.clone(),
                route: name.clone(),
                endpoint: peer.clone(),
                upstream: cluster.map_or(entry.cluster.as_str(), |(name, _)| name).to_owned(),
                phase: phase.into(),
                fault: fault.into(),
                status: (code != 0).then_some(u32::from(code)),
                method: entry.method.clone(),
                path: redact::line(path),
                count: 1,
                elapsed_ms: entry.duration.parse().ok(),
                reused: None,
                message: redact::line(message.collect::<Vec<_>>().join(" ")),
            });
            told.push(Told { at_us, what });
        }
        if all && !tcp && code != 0 && passed && (route.is_some() || self.instance.is_empty()) {
            let slowest_ms = entry.service.parse().ok();
            let counts = self.counts(code, relayed, name, peer, slowest_ms);
            told.push(Told { at_us, what: What::Answered(counts) });
        }
    }

    fn counts(
        &self,
        code: u16,
        relayed: bool,
        route: String,
        endpoint: String,
        slowest_ms: Option<u64>,
    ) -> v1::RequestCounts {
        let is = |range: std::ops::Range<u16>| u32::from(range.contains(&code));
        v1::RequestCounts {
            gateway: NAME.to_owned(),
            instance: self.instance.clone(),
            route,
            endpoint,
            period_ms: 0,
            informational: is(100..200),
            success: is(200..300),
            redirect: is(300..400),
            client_error: is(400..500),
            server_error: is(500..600),
            relayed: u32::from(relayed),
            slowest_ms,
            bad_gateway: is(502..503),
            unavailable: is(503..504),
            gateway_timeout: is(504..505),
        }
    }

    /// `{"type":"CONSECUTIVE_5XX",...,"action":"EJECT"}` and `{"health_checker_type":...,"eject_unhealthy_event":...}`.
    fn event(&self, line: &str) -> Option<Told> {
        let json: serde_json::Value = serde_json::from_str(line).ok()?;
        let text = |name: &str| json.get(name).and_then(serde_json::Value::as_str);
        let endpoint =
            if text("action") == Some("EJECT") && json.get("enforced") != Some(&false.into()) {
                peer(text("upstream_url")?)
            } else {
                json.get("eject_unhealthy_event")?;
                let host = json.get("host")?;
                let of = |path: &str| host.pointer(path).and_then(serde_json::Value::as_str);
                match of("/pipe/path") {
                    Some(path) => format!("unix:{path}"),
                    None => {
                        let port = host.pointer("/socket_address/port_value")?.to_string();
                        super::cluster::join(of("/socket_address/address")?, &port)
                    }
                }
            };
        let upstream = text("cluster_name").unwrap_or("").to_owned();
        let check = json.pointer("/eject_unhealthy_event/failure_type");
        let why = check.and_then(serde_json::Value::as_str).or(text("type")).unwrap_or("");
        let at_us = text("timestamp").and_then(micros);
        let instance = self.instance.clone();
        let what = What::Disabled(v1::EndpointDisabled {
            instance,
            endpoint,
            upstream,
            message: why.to_owned(),
            ..v1::EndpointDisabled::default()
        });
        Some(Told { at_us, what })
    }
}

impl Lines for EnvoyLines {
    fn read(&mut self, line: &str, told: &mut Vec<Told>) {
        if let Some((entry, all)) = self.entry(line) {
            self.access(&entry, all, told);
        } else if line.starts_with('{') {
            told.extend(self.event(line));
        } else {
            told.extend(reloaded(line, &self.instance));
        }
    }
}

/// Where and how a request failed; `None`: it did not, or not for its upstream.
fn meaning(entry: &Entry, code: u16, cluster: Option<&Cluster>) -> Option<(Phase, Fault)> {
    let said = Said {
        flags: &entry.flags,
        details: &entry.details,
        transport: &entry.transport,
        duration_ms: entry.duration.parse().ok(),
        connect_ms: cluster.map(|cluster| cluster.connect_ms),
        tls: cluster.map(|cluster| super::speaks_tls(cluster.protocol)),
        answered: entry.details.starts_with("upstream_reset_after_response_started")
            || (!entry.service.is_empty() && entry.details.is_empty())
            || (code != 0 && code < 500),
    };
    let plain = matches!(entry.flags.as_str(), "" | "-" | "URX" | "UpstreamRetryLimitExceeded");
    // Without its details, an answer without flags is the upstream's where one was asked.
    let theirs = match entry.details.as_str() {
        "" => !entry.peer.is_empty(),
        details => details == "via_upstream",
    };
    let relayed = plain && theirs && (502..=504).contains(&code);
    failure(said).or_else(|| relayed.then_some((Phase::Header, Fault::Relayed)))
}

/// "/run/app.sock" is "unix:/run/app.sock".
fn peer(text: &str) -> String {
    if text.starts_with(['/', '@']) { format!("unix:{text}") } else { text.to_owned() }
}

/// Of "10.0.0.1:80", or of a port alone.
fn port(local: &str) -> u16 {
    local.rsplit_once(':').map_or(local, |(_, port)| port).parse().unwrap_or(0)
}

/// The end of the request.
fn at_us(entry: &Entry) -> Option<i64> {
    let took = entry.duration.parse::<i64>().unwrap_or(0).checked_mul(1000)?;
    micros(&entry.start)?.checked_add(took)
}

fn micros(text: &str) -> Option<i64> {
    Some(text.parse::<Timestamp>().ok()?.as_microsecond())
}

/// What Envoy itself says where it takes resources anew, or refuses to: an example of each, of 1.40.
const RELOADS: [(&str, bool, &str); 4] = [
    (
        "] lds: add/update listener '",
        true,
        "[2026-11-27 21:48:31.388][3436][info][upstream] [source/common/listener_manager/lds_api.cc:110] lds: add/update listener 'in'",
    ),
    (
        "] cds: added/updated ",
        true,
        "[2026-11-27 21:48:28.362][3436][info][upstream] [source/common/upstream/cds_api_helper.cc:91] cds: added/updated 1 cluster(s) (skipped 0 unmodified cluster(s)); removed 0 cluster(s)",
    ),
    (
        "] Filesystem config update ",
        false,
        "[2026-11-27 21:48:29.371][3436][warning][config] [source/extensions/config_subscription/filesystem/filesystem_subscription_impl.cc:128] Filesystem config update failure: in /etc/envoy/cds.yaml, yaml-cpp: error at line 2, column 1: end of sequence flow not found",
    ),
    (
        "gRPC config for ",
        false,
        "[2026-11-27 21:48:29.371][3436][warning][config] [./source/extensions/config_subscription/grpc/grpc_subscription_impl.cc:138] gRPC config for type.googleapis.com/envoy.config.cluster.v3.Cluster rejected: Error adding/updating cluster(s) a",
    ),
];

fn reloaded(line: &str, instance: &str) -> Option<Told> {
    let own = line.starts_with('[') && line.contains("][");
    let (begin, taken, _) = RELOADS.iter().find(|(begin, ..)| own && line.contains(begin))?;
    let begin = line.find(begin)?;
    let message = line[begin..].trim_start_matches("] ");
    let what = What::Reloaded(v1::GatewayReloaded {
        gateway: NAME.to_owned(),
        instance: instance.to_owned(),
        error: if *taken { String::new() } else { redact::line(message) },
    });
    // Its stamp has no zone.
    Some(Told { at_us: None, what })
}

/// Whether a line is one of an access log in a usual format, or of its own log.
pub(super) fn knows(line: &str) -> bool {
    let usual = EnvoyLines::usual();
    // Formats as general as `[%START_TIME%] "..." CODE FLAGS` are nobody else's.
    let entry = usual.entry(line).is_some_and(|(entry, _)| micros(&entry.start).is_some());
    entry || usual.event(line).is_some() || reloaded(line, "").is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_example_is_of_one_reload() {
        for (_, taken, example) in RELOADS {
            let of = RELOADS.iter().filter(|(begin, ..)| example.contains(begin)).count();
            assert_eq!(of, 1, "{example}");
            let told = reloaded(example, "i").unwrap();
            let What::Reloaded(fact) = told.what else { panic!("{example}") };
            assert_eq!(fact.error.is_empty(), taken);
        }
        assert_eq!(reloaded("GET / lds: add/update listener 'x'", ""), None);
    }

    #[test]
    fn peers_that_were_taken_out() {
        let mut lines = EnvoyLines::usual();
        let mut told = Vec::new();
        lines.read(r#"{"type":"CONSECUTIVE_5XX","timestamp":"2026-11-27T21:48:27.323Z","cluster_name":"a","upstream_url":"127.0.0.1:8503","action":"EJECT","num_ejections":1,"enforced":true,"eject_consecutive_event":{}}"#, &mut told);
        lines.read(r#"{"health_checker_type":"TCP","host":{"socket_address":{"protocol":"TCP","address":"127.0.0.1","port_value":8000,"resolver_name":"","ipv4_compat":false,"network_namespace_filepath":""}},"cluster_name":"a","eject_unhealthy_event":{"failure_type":"NETWORK","http_status_code":0},"timestamp":"2026-11-27T21:48:33.374Z","locality":{"region":"","zone":"","sub_zone":""}}"#, &mut told);
        lines.read(r#"{"health_checker_type":"TCP","host":{"socket_address":{"address":"127.0.0.1","port_value":8000}},"cluster_name":"a","add_healthy_event":{"first_check":true},"timestamp":"2026-11-27T21:48:24.458Z"}"#, &mut told);
        let names: Vec<String> = told
            .iter()
            .map(|told| match &told.what {
                What::Disabled(fact) => format!("{} {}", fact.endpoint, fact.upstream),
                other => format!("{other:?}"),
            })
            .collect();
        assert_eq!(names, ["127.0.0.1:8503 a", "127.0.0.1:8000 a"]);
    }
}
