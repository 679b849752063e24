//! What names in a gateway's configuration resolve to on this host, by getaddrinfo(3) as the gateway itself asks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::ToSocketAddrs as _;
use std::time::Duration;

use tokio::task::JoinSet;

/// Names of one host's gateways; more are left unresolved, and their endpoints have no addresses.
const NAMES_MAX: usize = 512;
/// The resolver's own patience is 5 s a server. What comes later is not waited for: no address is better than none
/// of the other endpoints.
const WAIT: Duration = Duration::from_secs(3);
/// Threads that may hang in the resolver at a time.
const ASKED_MAX: usize = 8;

/// Addresses of each of `names` ("app:8080") that resolved in time.
pub async fn resolve(names: BTreeSet<String>) -> BTreeMap<String, Vec<String>> {
    let mut resolved = BTreeMap::new();
    let mut asked = JoinSet::new();
    let mut names = names.into_iter().take(NAMES_MAX);
    let deadline = tokio::time::Instant::now() + WAIT;
    loop {
        while asked.len() < ASKED_MAX
            && let Some(name) = names.next()
        {
            asked.spawn_blocking(move || {
                let addresses = name.to_socket_addrs().map(|found| found.collect::<BTreeSet<_>>());
                (name, addresses)
            });
        }
        match tokio::time::timeout_at(deadline, asked.join_next()).await {
            Ok(Some(Ok((name, Ok(addresses))))) => {
                let addresses = addresses.iter().map(ToString::to_string).collect();
                resolved.insert(name, addresses);
            }
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => return resolved,
        }
    }
}
