//! Clusters: where requests go and how long that may take (envoy.config.cluster.v3.Cluster).

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use why502_proto::v1::Protocol;

use super::resources::{At, Resources, kind};
use crate::document::Node;
use crate::document::duration::proto_ms;
use crate::place::{Place, Problem};

/// connect_timeout, TLS included.
const CONNECT_MS: u64 = 5000;
/// idle_timeout of connections to upstreams.
const IDLE_MS: u64 = 3_600_000;
/// An idle timeout of 0 is none; the proto has no word for that.
const FOREVER_MS: u64 = u32::MAX as u64;
/// base_ejection_time of outlier detection.
const EJECTION_MS: u64 = 30_000;
/// max_connections of circuit breakers.
const CONNECTIONS_MAX: u32 = 1024;
/// Clusters of clusters of clusters.
const AGGREGATE_DEPTH_MAX: usize = 4;

/// A cluster.
#[derive(Clone, Debug, Default)]
pub(super) struct Cluster {
    pub(super) peers: Vec<Peer>,
    pub(super) protocol: Protocol,
    pub(super) connect_ms: u64,
    /// `None`: each connection serves one request.
    pub(super) keepalive_ms: Option<u64>,
    /// consecutive_5xx; 0: no outlier detection.
    pub(super) max_fails: u32,
    pub(super) fail_timeout_ms: u64,
    pub(super) max_conns: u32,
    /// Names of clusters that it stands for.
    aggregate: Vec<String>,
}

/// One address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) endpoint: String,
    pub(super) place: Place,
    /// Its configuration says that it is not to be asked.
    pub(super) down: bool,
    /// Only asked where better ones are gone.
    pub(super) backup: bool,
}

impl Peer {
    /// Itself where it is an address; a name is for the agent to resolve.
    pub(super) fn addresses(&self) -> Vec<String> {
        let address =
            self.endpoint.starts_with("unix:") || self.endpoint.parse::<SocketAddr>().is_ok();
        if address { vec![self.endpoint.clone()] } else { Vec::new() }
    }
}

/// All clusters by name.
pub(super) fn clusters(
    resources: &Resources<'_>,
    problems: &mut BTreeSet<Problem>,
) -> BTreeMap<String, Cluster> {
    let mut all = BTreeMap::new();
    for at in &resources.clusters {
        let name = at.node.text("name");
        if name.is_empty() {
            problems.insert(at.problem(at.node, "a cluster without a name"));
            continue;
        }
        // The first of a name is the one that Envoy keeps.
        all.entry(name.to_owned()).or_insert_with(|| cluster(*at, resources, problems));
    }
    for _ in 0..AGGREGATE_DEPTH_MAX {
        let of = |name: &String| all.get(name).map(|cluster: &Cluster| cluster.peers.clone());
        let filled: Vec<(String, Vec<Peer>)> = all
            .iter()
            .filter(|(_, cluster)| !cluster.aggregate.is_empty())
            .map(|(name, cluster)| {
                (name.clone(), cluster.aggregate.iter().filter_map(of).flatten().collect())
            })
            .collect();
        for (name, peers) in filled {
            if let Some(cluster) = all.get_mut(&name) {
                cluster.peers = peers;
            }
        }
    }
    all
}

fn cluster(at: At<'_>, resources: &Resources<'_>, problems: &mut BTreeSet<Problem>) -> Cluster {
    let node = at.node;
    let time = |node: &Node, path: &str| proto_ms(node.text(path));
    let options = http_options(node);
    let common = options.and_then(|options| options.get("common_http_protocol_options"));
    let common = common.or_else(|| node.get("common_http_protocol_options"));
    let idle = common.and_then(|common| time(common, "idle_timeout")).unwrap_or(IDLE_MS);
    let once =
        common.is_some_and(|common| number(common, "max_requests_per_connection") == Some(1));
    let outlier = node.get("outlier_detection");
    Cluster {
        peers: peers(at, resources, problems),
        protocol: protocol(node, options),
        connect_ms: time(node, "connect_timeout").unwrap_or(CONNECT_MS),
        keepalive_ms: (!once).then_some(if idle == 0 { FOREVER_MS } else { idle }),
        max_fails: outlier.map_or(0, |outlier| number(outlier, "consecutive_5xx").unwrap_or(5)),
        fail_timeout_ms: outlier
            .map_or(0, |outlier| time(outlier, "base_ejection_time").unwrap_or(EJECTION_MS)),
        max_conns: threshold(node).unwrap_or(CONNECTIONS_MAX),
        aggregate: node
            .list("cluster_type.typed_config.clusters")
            .iter()
            .filter_map(Node::scalar)
            .map(str::to_owned)
            .collect(),
    }
}

/// `envoy.extensions.upstreams.http.v3.HttpProtocolOptions`.
fn http_options(node: &Node) -> Option<&Node> {
    let options = node.map("typed_extension_protocol_options").iter();
    options.map(|(_, options)| options).find(|options| kind(options) == "HttpProtocolOptions")
}

fn protocol(node: &Node, options: Option<&Node>) -> Protocol {
    let socket = node.text("transport_socket.name");
    let typed = node.at("transport_socket.typed_config").map_or("", kind);
    let tls = typed == "UpstreamTlsContext"
        || (typed.is_empty() && socket.ends_with("tls"))
        || node.get("tls_context").is_some();
    let explicit = options.and_then(|options| options.get("explicit_http_config"));
    let h2 = explicit.is_some_and(|explicit| {
        explicit
            .entries()
            .iter()
            .any(|(name, _)| crate::document::same_name(name, "http2_protocol_options"))
    }) || node
        .entries()
        .iter()
        .any(|(name, _)| crate::document::same_name(name, "http2_protocol_options"));
    match (h2, tls) {
        (true, true) => Protocol::Grpcs,
        (true, false) => Protocol::Grpc,
        (false, true) => Protocol::Https,
        (false, false) => Protocol::Http,
    }
}

/// max_connections of the default priority.
fn threshold(node: &Node) -> Option<u32> {
    let of_default = |node: &&Node| matches!(node.text("priority"), "" | "DEFAULT" | "0");
    let threshold = node.list("circuit_breakers.thresholds").iter().find(of_default)?;
    number(threshold, "max_connections")
}

/// A number, as itself or in a wrapper.
fn number(node: &Node, path: &str) -> Option<u32> {
    let node = node.at(path)?;
    node.get("value").unwrap_or(node).scalar()?.parse().ok()
}

fn peers(at: At<'_>, resources: &Resources<'_>, problems: &mut BTreeSet<Problem>) -> Vec<Peer> {
    let node = at.node;
    let name = match node.text("eds_cluster_config.service_name") {
        "" => node.text("name"),
        service => service,
    };
    let own = node.get("load_assignment").map(|assignment| at.with(assignment));
    let Some(assignment) = own.or_else(|| resources.assignments.get(name).copied()) else {
        return Vec::new();
    };
    let mut peers = Vec::new();
    for locality in assignment.node.list("endpoints") {
        let backup = number(locality, "priority").is_some_and(|priority| priority > 0);
        for entry in locality.list("lb_endpoints") {
            let Some(address) = entry.at("endpoint.address") else {
                problems.insert(assignment.problem(entry, "an endpoint without an address"));
                continue;
            };
            let status = entry.text("health_status");
            let down = matches!(status, "UNHEALTHY" | "DRAINING" | "TIMEOUT");
            match endpoint(address) {
                Some((endpoint, place)) => {
                    let place = assignment.place(place);
                    peers.push(Peer { endpoint, place, down, backup });
                }
                None => {
                    problems.insert(assignment.problem(address, "an address of an unknown kind"));
                }
            }
        }
    }
    peers
}

/// "10.0.0.7:8080" or "unix:/run/app.sock" of an envoy.config.core.v3.Address, and the node that says it.
pub(super) fn endpoint(address: &Node) -> Option<(String, &Node)> {
    if let Some(path) = address.at("pipe.path") {
        return Some((format!("unix:{}", path.scalar()?), path));
    }
    let socket = address.get("socket_address")?;
    let host = socket.get("address")?;
    let port = socket.get("port_value").and_then(Node::scalar).unwrap_or("0");
    Some((join(host.scalar()?, port), host))
}

/// Host and port as one.
pub(super) fn join(host: &str, port: &str) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
