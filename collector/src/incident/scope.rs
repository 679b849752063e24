//! Whose facts explain a gateway: its own, and those of every host that its endpoints lead to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use why502_explain::Seen;
use why502_proto::Kind;

use crate::store::{Committed, Store, StoreError};

/// Endpoints of one gateway that no configuration declares and only failures name, the newest. The declared ones are
/// as many as the configuration has.
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
    /// The boot of each host that its addresses and endpoints are of.
    hosts: BTreeMap<String, String>,
    /// Hosts that had an address which nobody has now: a gateway may still go there.
    lost: BTreeMap<String, BTreeSet<String>>,
    gateways: BTreeMap<String, Gateway>,
}

#[derive(Clone, Debug, Default)]
struct Gateway {
    declared: BTreeMap<Declared, Vec<String>>,
    felt: VecDeque<String>,
}

/// Instance, route and endpoint of a declaration, which leads to addresses.
type Declared = (String, String, String);

impl Scopes {
    /// What the current state says.
    ///
    /// # Errors
    /// If the store cannot be read.
    pub async fn load(store: &Store) -> Result<Self, StoreError> {
        let mut scopes = Self::default();
        for host in store.hosts().await? {
            scopes.hosts.insert(host.name, host.boot);
        }
        for about in ["host_address", "gateway", "endpoint"] {
            for seen in store.current_about(about).await? {
                scopes.take(&seen);
            }
        }
        Ok(scopes)
    }

    /// Takes in what was stored. True if a scope may have changed by it.
    pub fn commit(&mut self, committed: &Committed) -> bool {
        let mut changed = false;
        for (seen, _) in &committed.facts {
            changed |= self.begin_boot(seen) | self.take(seen);
        }
        changed
    }

    /// An agent that speaks for another boot says all that is so anew.
    fn begin_boot(&mut self, seen: &Seen) -> bool {
        let (host, boot) = (&seen.id.host, &seen.id.boot);
        match self.hosts.get(host) {
            Some(known) if known == boot => return false,
            Some(_) if !matches!(seen.kind, Kind::AgentStarted(_)) => return false,
            Some(_) => {
                self.addresses.retain(|_, hosts| {
                    hosts.remove(host);
                    !hosts.is_empty()
                });
                if let Some(gateway) = self.gateways.get_mut(host) {
                    gateway.declared.clear();
                }
            }
            None => {}
        }
        self.hosts.insert(host.clone(), boot.clone());
        true
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

    fn take(&mut self, seen: &Seen) -> bool {
        let host = &seen.id.host;
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
                let empty = self.addresses.get(address).is_some_and(BTreeSet::is_empty);
                if empty {
                    self.addresses.remove(address);
                }
                had
            }
            Kind::GatewaySeen(_) => {
                let new = !self.gateways.contains_key(host);
                self.gateways.entry(host.clone()).or_default();
                new
            }
            Kind::GatewayGone(gone) => {
                let Some(of) = self.gateways.get_mut(host) else { return false };
                let before = of.declared.len();
                of.declared.retain(|(instance, ..), _| *instance != gone.instance);
                of.declared.len() != before
            }
            Kind::EndpointDeclared(endpoint) => {
                let name = declared(&endpoint.instance, &endpoint.route, &endpoint.endpoint);
                let mut addresses = endpoint.addresses.clone();
                addresses.push(endpoint.endpoint.clone());
                let of = self.gateways.entry(host.clone()).or_default();
                of.declared.insert(name, addresses.clone()) != Some(addresses)
            }
            Kind::EndpointWithdrawn(gone) => {
                let name = declared(&gone.instance, &gone.route, &gone.endpoint);
                self.gateways.get_mut(host).is_some_and(|of| of.declared.remove(&name).is_some())
            }
            Kind::RequestFailed(failed) => {
                let felt = &mut self.gateways.entry(host.clone()).or_default().felt;
                if failed.endpoint.is_empty() || felt.contains(&failed.endpoint) {
                    return false;
                }
                if felt.len() == FELT_MAX {
                    felt.pop_front();
                }
                felt.push_back(failed.endpoint.clone());
                true
            }
            _ => false,
        }
    }
}

fn declared(instance: &str, route: &str, endpoint: &str) -> Declared {
    (instance.to_owned(), route.to_owned(), endpoint.to_owned())
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
    use crate::incident::tests::{committed, committed_in};

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
    fn the_newest_failures_lead_although_there_were_many() {
        let mut lines = "T+0.000 app-1 host_address address=10.0.0.7 interface=eth0\n".to_owned();
        for port in 0..FELT_MAX {
            lines += &format!("T+0.000 gw request_failed endpoint=10.9.9.9:{port} count=1\n");
        }
        lines += "T+1.000 gw request_failed endpoint=10.0.0.7:80 count=1";
        check(&lines, &["gw", "app-1"]);
    }

    #[test]
    fn a_gateway_that_is_gone_leads_no_more() {
        check(
            "T+0.000 app-1 host_address address=10.0.0.7 interface=eth0
             T+0.000 gw endpoint_declared instance=n route=/ endpoint=10.0.0.7:80
             T+1.000 gw gateway_gone instance=n",
            &["gw"],
        );
    }

    #[test]
    fn a_boot_ends_the_addresses_of_the_last_one() {
        let mut scopes = Scopes::default();
        let mut commit = |boot: &str, line: &str| {
            scopes.commit(&committed_in(boot, 1, 0, line.parse().unwrap()));
        };
        commit("b1", "T+0.000 app-1 host_address address=10.0.0.7 interface=eth0");
        commit("b1", "T+0.000 gw endpoint_declared instance=n route=/ endpoint=10.0.0.7:80");
        commit("b2", "T+9.000 app-1 agent_started version=1");
        commit("b2", "T+9.000 app-1 host_address address=10.0.0.8 interface=eth0");
        assert_eq!(scopes.hosts_of("gw"), ["gw"]);
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
