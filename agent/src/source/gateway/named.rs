//! Endpoints that the configuration of this program names, for hosts whose gateway no agent can read.

use std::collections::BTreeSet;

use why502_proto::{Kind, v1};

use super::names;
use crate::observe::Observer;
use crate::source::UnixClient;

/// What stands for the gateway in facts: nobody knows which one it is.
const GATEWAY: &str = "unknown";
/// The instance in facts.
const INSTANCE: &str = "why502-agent";

/// Tells the endpoints ("app:8080", "unix:/run/app.sock") as declared.
pub async fn tell(endpoints: &[String], observer: &Observer) {
    let names = endpoints.iter().filter(|endpoint| !endpoint.starts_with("unix:"));
    let names: BTreeSet<String> = names.cloned().collect();
    let resolved = names::resolve(names).await;
    for endpoint in endpoints {
        let path = endpoint.starts_with("unix:").then(|| vec![endpoint.clone()]);
        let addresses = path.or_else(|| resolved.get(endpoint).cloned()).unwrap_or_default();
        observer.observe(Kind::EndpointDeclared(v1::EndpointDeclared {
            gateway: GATEWAY.to_owned(),
            instance: INSTANCE.to_owned(),
            route: String::new(),
            endpoint: endpoint.clone(),
            addresses,
            peers: 1,
            ..v1::EndpointDeclared::default()
        }));
    }
}

/// Unix sockets among them. Who connects is not known.
pub fn unix_clients(endpoints: &[String]) -> impl Iterator<Item = UnixClient> {
    let paths = endpoints.iter().filter_map(|endpoint| endpoint.strip_prefix("unix:"));
    paths.map(|path| UnixClient { path: path.into(), user: None })
}
