//! Routes towards the endpoints of this host's gateways, the neighbours on the way, and the host's links.

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::io::unix::AsyncFd;
use why502_proto::{Kind, v1};

use super::rtnetlink::{self, LINKS, Link, Neighbor, ROUTES, Rtnetlink, Way};
use super::{DATAGRAMS_MAX, watched};
use crate::clock::Moment;
use crate::observe::Observer;
use crate::source::netlink::Socket;

/// Addresses whose way is looked up.
const DESTINATIONS_MAX: usize = 1024;

pub(super) struct WatchPaths {
    links: Option<AsyncFd<Socket>>,
    /// Only on hosts whose gateways have endpoints elsewhere: routers hear of thousands of routes.
    routes: Option<AsyncFd<Socket>>,
    endpoints: BTreeSet<SocketAddr>,
    ways: BTreeMap<IpAddr, Way>,
    said_ways: BTreeMap<IpAddr, v1::Route>,
    said_links: BTreeMap<String, v1::LinkState>,
    /// Next hops, with what was said of each.
    hops: BTreeMap<(IpAddr, u32), bool>,
    /// What notices told of next hops since the last look.
    heard: Vec<Neighbor>,
    blind: bool,
}

impl WatchPaths {
    pub(super) fn start(_observer: &Observer) -> Self {
        Self {
            links: watched(Socket::open(None, LINKS)).ok(),
            routes: None,
            endpoints: BTreeSet::new(),
            ways: BTreeMap::new(),
            said_ways: BTreeMap::new(),
            said_links: BTreeMap::new(),
            hops: BTreeMap::new(),
            heard: Vec::new(),
            blind: false,
        }
    }

    /// Where the gateways of this host send requests to, as far as it is an address.
    pub(super) fn set_endpoints(&mut self, declared: Vec<v1::EndpointDeclared>) {
        let addresses = declared.iter().flat_map(|declared| &declared.addresses);
        self.endpoints =
            addresses.filter_map(|address| address.parse().ok()).take(DESTINATIONS_MAX).collect();
        if !self.endpoints.is_empty() && self.routes.is_none() {
            self.routes = watched(Socket::open(None, ROUTES)).ok();
        }
    }

    /// Endpoints with the way to each, where there is one.
    pub(super) fn ways(&self) -> impl Iterator<Item = (SocketAddr, &Way)> {
        self.endpoints
            .iter()
            .filter_map(|endpoint| Some((*endpoint, self.ways.get(&endpoint.ip())?)))
            .filter(|(_, way)| way.outcome == v1::RouteOutcome::Reachable)
    }

    /// Waits for a notice. `true`: it is worth a look.
    pub(super) async fn changed(&mut self, buffer: &mut [u8]) -> bool {
        let (links, routes) = (self.links.as_ref(), self.routes.as_ref());
        let socket = tokio::select! {
            Some(()) = readable(links) => links,
            Some(()) = readable(routes) => routes,
            else => return pending().await,
        };
        let Some(socket) = socket else { return false };
        let (mut worth, mut heard) = (false, Vec::new());
        let lost = socket.get_ref().drain(DATAGRAMS_MAX, buffer, |message| {
            if message.kind == rtnetlink::NEW_NEIGHBOR {
                heard.extend(rtnetlink::neighbor(message.payload));
            } else {
                worth = true;
            }
        });
        let hop = |n: &Neighbor| self.hops.contains_key(&(n.address, n.interface));
        heard.retain(|neighbor| neighbor.failed.is_some() && hop(neighbor));
        worth |= !heard.is_empty() || !matches!(lost, Ok(false));
        self.heard.extend(heard);
        worth
    }

    /// Looks at links, ways and neighbours, and says what changed.
    pub(super) fn look(&mut self, at: Moment, existing: bool, observer: &Observer) {
        match self.try_look(at, existing, observer) {
            Ok(()) if self.blind => observer.seeing(v1::Source::Network, ""),
            Ok(()) => {}
            Err(error) => {
                let reason = format!("cannot read routes and links: {error}");
                observer.blinded(v1::Source::Network, "", &reason, "AF_NETLINK");
                self.blind = true;
                return;
            }
        }
        self.blind = false;
    }

    fn try_look(&mut self, at: Moment, existing: bool, observer: &Observer) -> io::Result<()> {
        let rtnetlink = Rtnetlink::open()?;
        let links = rtnetlink.links()?;
        let mut say = |kind| observer.observe_at(at, kind);
        self.look_at_links(&links, &rtnetlink.addresses()?, existing, &mut say);
        if self.endpoints.is_empty() && self.said_ways.is_empty() {
            return Ok(());
        }
        let destinations: BTreeSet<IpAddr> = self.endpoints.iter().map(SocketAddr::ip).collect();
        self.ways.clear();
        for destination in destinations {
            self.ways.insert(destination, rtnetlink.way(destination)?);
        }
        self.say_ways(&links, existing, &mut say);
        let hops: BTreeSet<(IpAddr, u32)> = self
            .ways
            .iter()
            .filter(|(_, way)| way.outcome == v1::RouteOutcome::Reachable && !way.local)
            .map(|(destination, way)| (way.via.unwrap_or(*destination), way.interface))
            .collect();
        let new = hops.iter().any(|hop| !self.hops.contains_key(hop));
        self.hops.retain(|hop, _| hops.contains(hop));
        for hop in hops {
            self.hops.entry(hop).or_insert(false);
        }
        let mut heard = std::mem::take(&mut self.heard);
        if new {
            heard.extend(rtnetlink.neighbors()?);
        }
        self.say_neighbors(&heard, &links, &mut say);
        Ok(())
    }

    fn say_ways(&mut self, links: &[Link], existing: bool, say: &mut dyn FnMut(Kind)) {
        let mut now = BTreeMap::new();
        for (destination, way) in self.ways.iter().filter(|(_, way)| !way.local) {
            let text = |ip: Option<IpAddr>| ip.map(|ip| ip.to_string()).unwrap_or_default();
            let known = self.said_ways.get(destination);
            let route = v1::Route {
                destination: destination.to_string(),
                outcome: way.outcome.into(),
                interface: link_name(links, way.interface),
                via: text(way.via),
                source: text(way.source),
                existing: known.map_or(existing, |known| known.existing),
            };
            if known != Some(&route) {
                let new = v1::Route { existing: existing && known.is_none(), ..route.clone() };
                say(Kind::Route(new));
            }
            now.insert(*destination, route);
        }
        for gone in self.said_ways.keys().filter(|destination| !now.contains_key(destination)) {
            let destination = gone.to_string();
            say(Kind::RouteForgotten(v1::RouteForgotten { destination }));
        }
        self.said_ways = now;
    }

    fn say_neighbors(&mut self, heard: &[Neighbor], links: &[Link], say: &mut dyn FnMut(Kind)) {
        for neighbor in heard {
            let hop = (neighbor.address, neighbor.interface);
            let (Some(said), Some(failed)) = (self.hops.get_mut(&hop), neighbor.failed) else {
                continue;
            };
            if std::mem::replace(said, failed) != failed {
                say(Kind::Neighbor(v1::Neighbor {
                    address: neighbor.address.to_string(),
                    interface: link_name(links, neighbor.interface),
                    failed,
                    lladdr: neighbor.lladdr.clone(),
                }));
            }
        }
    }

    fn look_at_links(
        &mut self,
        links: &[Link],
        addresses: &[(IpAddr, u32)],
        existing: bool,
        say: &mut dyn FnMut(Kind),
    ) {
        let mut now = BTreeMap::new();
        for link in links.iter().filter(|link| !link.loopback) {
            let addressed = addresses.iter().any(|(_, index)| *index == link.index);
            if addressed || self.said_links.contains_key(&link.name) {
                let state = v1::LinkState {
                    interface: link.name.clone(),
                    up: link.up,
                    carrier: link.carrier,
                    existing: false,
                    gone: false,
                };
                now.insert(link.name.clone(), state);
            }
        }
        let said = std::mem::take(&mut self.said_links);
        for (_, link) in said.iter().filter(|(name, _)| !now.contains_key(*name)) {
            let gone = v1::LinkState { gone: true, up: false, carrier: false, ..link.clone() };
            say(Kind::LinkState(gone));
        }
        for (name, link) in &now {
            let known = said.get(name);
            if known != Some(link) {
                let existing = existing && known.is_none();
                say(Kind::LinkState(v1::LinkState { existing, ..link.clone() }));
            }
        }
        self.said_links = now;
    }
}

fn link_name(links: &[Link], index: u32) -> String {
    links.iter().find(|link| link.index == index).map(|l| l.name.clone()).unwrap_or_default()
}

async fn readable(socket: Option<&AsyncFd<Socket>>) -> Option<()> {
    let mut ready = socket?.readable().await.ok()?;
    // What waits is taken right away; whatever comes after wakes anew.
    ready.clear_ready();
    Some(())
}
