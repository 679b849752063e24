//! Whose facts explain a gateway: its own, and those of every host that its endpoints lead to.

use std::collections::{BTreeMap, BTreeSet};

use why502_explain::Seen;
use why502_proto::{Entity, Kind};

use crate::store::{Committed, Store, StoreError};

/// Endpoints of one gateway that no configuration declares and only failures name. The declared ones are as
/// many as the configuration has.
const FELT_MAX: usize = 256;
/// Addresses that somebody had; beyond it new ones are forgotten at once.
const LOST_MAX: usize = 4096;
/// Hosts that one gateway is explained from: each costs a window of facts.
const HOSTS_PER_GATEWAY_MAX: usize = 256;

/// Which hosts are gateways, and where their endpoints are.
#[derive(Clone, Debug, Default)]
pub struct Scopes {
    /// Hosts that have an address; several where it is not unique (bridges of containers).
    addresses: BTreeMap<String, BTreeSet<String>>,
    /// Hosts that had an address which nobody has now: a gateway may still go there.
    lost: BTreeMap<String, BTreeSet<String>>,
    hosts: BTreeSet<String>,
    gateways: BTreeMap<String, Gateway>,
}

#[derive(Clone, Debug, Default)]
struct Gateway {
    /// Addresses by the endpoint's entity.
    declared: BTreeMap<String, Vec<String>>,
    felt: BTreeSet<String>,
}

impl Scopes {
    /// What the current state says.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn load(store: &Store) -> Result<Self, StoreError> {
        let mut scopes = Self::default();
        for host in store.hosts().await? {
            scopes.hosts.insert(host.name);
        }
        for about in ["host_address", "gateway", "endpoint"] {
            for seen in store.current_about(about).await? {
                let entity = Entity::of(&seen.kind);
                scopes.take(&seen, entity.as_ref());
            }
        }
        Ok(scopes)
    }

    /// Takes in what was stored. True if a scope may have changed by it.
    pub fn commit(&mut self, committed: &Committed) -> bool {
        let mut changed = self.hosts.insert(committed.host.clone());
        for (seen, entity) in &committed.facts {
            changed |= self.take(seen, entity.as_ref());
        }
        changed
    }

    /// Gateways, by name.
    pub fn gateways(&self) -> Vec<&str> {
        self.gateways.keys().map(String::as_str).collect()
    }

    /// Hosts that `gateway` is explained from, itself first.
    pub fn hosts_of(&self, gateway: &str) -> Vec<String> {
        let mut hosts = vec![gateway.to_owned()];
        let Some(of) = self.gateways.get(gateway) else { return hosts };
        let addresses = of.declared.values().flatten().chain(&of.felt);
        let places: BTreeSet<&str> = addresses.filter_map(|address| place(address)).collect();
        let named = places.iter().filter_map(|place| self.at(place, gateway));
        let found: BTreeSet<&String> = named.flatten().collect();
        hosts.extend(found.into_iter().filter(|host| *host != gateway).cloned());
        hosts.truncate(HOSTS_PER_GATEWAY_MAX);
        hosts
    }

    /// Hosts at an address or of a name; none if the gateway has the address itself.
    fn at(&self, place: &str, gateway: &str) -> Option<&BTreeSet<String>> {
        let has = self.addresses.get(place).filter(|hosts| !hosts.is_empty());
        let hosts = has.or_else(|| self.lost.get(place))?;
        (!hosts.contains(gateway)).then_some(hosts)
    }

    fn take(&mut self, seen: &Seen, entity: Option<&Entity>) -> bool {
        let host = &seen.id.host;
        let gateway = |gateways: &mut BTreeMap<String, Gateway>| -> bool {
            let new = !gateways.contains_key(host);
            gateways.entry(host.clone()).or_default();
            new
        };
        match &seen.kind {
            Kind::HostAddress(address) => {
                self.addresses.entry(address.address.clone()).or_default().insert(host.clone())
            }
            Kind::HostAddressGone(gone) => {
                let address = &gone.address;
                let had = self.addresses.get_mut(address).is_some_and(|h| h.remove(host));
                if had && (self.lost.len() < LOST_MAX || self.lost.contains_key(address)) {
                    self.lost.entry(address.clone()).or_default().insert(host.clone());
                }
                had
            }
            Kind::GatewaySeen(_) => gateway(&mut self.gateways),
            Kind::EndpointDeclared(endpoint) => {
                let Some(entity) = entity else { return false };
                let mut addresses = endpoint.addresses.clone();
                addresses.push(endpoint.endpoint.clone());
                let of = self.gateways.entry(host.clone()).or_default();
                of.declared.insert(entity.name.clone(), addresses.clone()) != Some(addresses)
            }
            Kind::EndpointWithdrawn(_) => {
                let Some(entity) = entity else { return false };
                self.gateways
                    .get_mut(host)
                    .is_some_and(|of| of.declared.remove(&entity.name).is_some())
            }
            Kind::RequestFailed(failed) => {
                let of = self.gateways.entry(host.clone()).or_default();
                of.felt.len() < FELT_MAX
                    && !failed.endpoint.is_empty()
                    && of.felt.insert(failed.endpoint.clone())
            }
            _ => false,
        }
    }
}

/// Whether a fact tells something of `hosts`: the collector, which speaks of others, tells of all.
pub fn concerns(hosts: &[String], seen: &Seen) -> bool {
    match &seen.kind {
        Kind::AgentSilent(silent) => hosts.contains(&silent.host),
        _ => true,
    }
}

/// The host part of an endpoint's address; `None` for what is on the gateway itself.
fn place(address: &str) -> Option<&str> {
    if address.starts_with("unix:") {
        return None;
    }
    let host = match address.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map(|(host, _)| host)?,
        None => address.rsplit_once(':').map_or(address, |(host, _)| host),
    };
    let loopback = host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
    (!loopback && !host.is_empty()).then_some(host)
}

#[cfg(test)]
mod tests {
    use why502_proto::FactLine;

    use super::*;
    use crate::incident::tests::committed;

    fn check(lines: &str, expect: &[&str]) {
        let mut scopes = Scopes::default();
        for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
            let line: FactLine = line.parse().unwrap();
            scopes.commit(&committed(0, 0, line));
        }
        assert_eq!(scopes.hosts_of("gw"), expect);
    }

    #[test]
    fn endpoints_lead_to_hosts_by_address() {
        check(
            "T+0.000 app-1 host_address address=10.0.0.7 interface=eth0
             T+0.000 app-2 host_address address=fe80::2 interface=eth0
             T+0.000 app-3 host_address address=10.0.0.9 interface=eth0
             T+0.000 gw endpoint_declared instance=n route=/ endpoint=10.0.0.7:80 addresses=10.0.0.7:80
             T+0.000 gw request_failed endpoint=[fe80::2]:80 count=1",
            &["gw", "app-1", "app-2"],
        );
    }

    #[test]
    fn a_name_leads_by_what_it_resolved_to() {
        check(
            "T+0.000 app-1 host_address address=10.0.0.7 interface=eth0
             T+0.000 gw endpoint_declared instance=n route=/ endpoint=api:80 addresses=10.0.0.7:80",
            &["gw", "app-1"],
        );
    }

    #[test]
    fn what_is_on_the_gateway_leads_nowhere() {
        check(
            "T+0.000 app-1 host_address address=127.0.0.1 interface=lo
             T+0.000 app-1 host_address address=172.17.0.1 interface=docker0
             T+0.000 gw host_address address=172.17.0.1 interface=docker0
             T+0.000 gw endpoint_declared instance=n route=/ endpoint=127.0.0.1:80
             T+0.000 gw endpoint_declared instance=n route=/x endpoint=unix:/run/x.sock
             T+0.000 gw endpoint_declared instance=n route=/y endpoint=172.17.0.1:80",
            &["gw"],
        );
    }

    #[test]
    fn a_withdrawn_endpoint_leads_no_more() {
        check(
            "T+0.000 app-1 host_address address=10.0.0.7 interface=eth0
             T+0.000 gw endpoint_declared instance=n route=/ endpoint=10.0.0.7:80
             T+1.000 gw endpoint_withdrawn instance=n route=/ endpoint=10.0.0.7:80",
            &["gw"],
        );
    }
}
