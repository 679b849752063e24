//! Where endpoints lead: which host owns an address.

use why502_proto::v1;

use super::{Said, Snapshot};
use crate::address::Address;

/// The host behind an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Located<'a> {
    /// It has an agent.
    At(&'a str),
    /// No agent owns the address.
    NoAgent,
    /// Several hosts own the address.
    Several,
}

/// One address that a gateway sends requests to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'a> {
    /// Host of the gateway.
    pub(crate) gateway: &'a str,
    /// As the gateway names it.
    pub(crate) endpoint: &'a str,
    pub(crate) address: Address<'a>,
    pub(crate) located: Located<'a>,
}

impl<'a> Place<'a> {
    pub(crate) fn host(&self) -> Option<&'a str> {
        if let Located::At(host) = self.located { Some(host) } else { None }
    }

    /// The address without its port, or the path.
    pub(crate) fn owner_name(&self) -> String {
        match self.address {
            Address::Tcp(socket) => socket.ip().to_string(),
            Address::Unix(path) => path.to_owned(),
            Address::Name(name, _) => name.to_owned(),
        }
    }
}

impl Snapshot {
    pub(crate) fn place<'a>(
        &'a self,
        gateway: &'a str,
        endpoint: &'a str,
        at_us: i64,
    ) -> Option<Place<'a>> {
        let mut address = Address::parse(endpoint)?;
        if matches!(address, Address::Name(..)) && !address.is_local() {
            address = self.resolved(gateway, endpoint, at_us).unwrap_or(address);
        }
        Some(Place { gateway, endpoint, address, located: self.locate(gateway, address, at_us) })
    }

    /// The one address that a declared name led to on the gateway's host: logs of some gateways have only the name.
    fn resolved<'a>(&'a self, gateway: &str, endpoint: &str, at_us: i64) -> Option<Address<'a>> {
        let named = |fact: &Said<'a, v1::EndpointDeclared>| fact.what.endpoint == endpoint;
        let last = |until_us: i64| {
            self.on::<v1::EndpointDeclared>(gateway)
                .rfind(|fact| fact.at_us() <= until_us && named(fact))
        };
        match last(at_us).or_else(|| last(i64::MAX))?.what.addresses.as_slice() {
            [only] => Address::parse(only),
            _ => None,
        }
    }

    /// The host that owns an address, as `from` would reach it: loopback and unix sockets are its own. `None`: nobody
    /// that an agent looks at, or several.
    pub fn owner<'a>(&'a self, from: &'a str, address: &Address<'_>) -> Option<&'a str> {
        match self.locate(from, *address, self.now_us()) {
            Located::At(host) => Some(host),
            Located::NoAgent | Located::Several => None,
        }
    }

    /// The host that owned the address then.
    pub(crate) fn locate<'a>(
        &'a self,
        gateway: &'a str,
        address: Address<'_>,
        at_us: i64,
    ) -> Located<'a> {
        let found = if address.is_local() || self.owns(gateway, address, at_us) {
            self.host_name(gateway)
        } else {
            let mut owners =
                self.hosts().filter(|&host| host != gateway && self.owns(host, address, at_us));
            match (owners.next(), owners.next()) {
                (Some(_), Some(_)) => return Located::Several,
                (owner, _) => owner,
            }
        };
        match found {
            Some(host) if self.has_agent(host) => Located::At(host),
            _ => Located::NoAgent,
        }
    }

    fn owns(&self, host: &str, address: Address<'_>, at_us: i64) -> bool {
        let Address::Tcp(socket) = address else {
            return matches!(address, Address::Name(name, _) if name == host);
        };
        // An address that came later is still the best guess: the agent may have started after the failure.
        let last = |until_us: i64| self.address_fact(host, socket.ip(), until_us);
        last(at_us).or_else(|| last(i64::MAX)).is_some_and(|owned| owned)
    }

    /// Whether the last that was said of the address until then is that the host has it.
    fn address_fact(&self, host: &str, ip: std::net::IpAddr, until_us: i64) -> Option<bool> {
        let is = |text: &str| {
            let text = text.split('%').next().unwrap_or(text);
            text.parse::<std::net::IpAddr>().is_ok_and(|own| own.to_canonical() == ip)
        };
        let came = self
            .on::<v1::HostAddress>(host)
            .rfind(|fact| fact.at_us() <= until_us && is(&fact.what.address))
            .map(|fact| (fact.at_us(), true));
        let went = self
            .on::<v1::HostAddressGone>(host)
            .rfind(|fact| fact.at_us() <= until_us && is(&fact.what.address))
            .map(|fact| (fact.at_us(), false));
        came.max(went).map(|(_, has)| has)
    }

    /// What the gateways of `gateway` declare until then and have not withdrawn.
    pub(crate) fn declared<'a>(
        &'a self,
        gateway: &str,
        at_us: i64,
    ) -> Vec<Said<'a, v1::EndpointDeclared>> {
        let mut declared: std::collections::BTreeMap<_, Said<'a, v1::EndpointDeclared>> =
            std::collections::BTreeMap::new();
        for fact in self.on::<v1::EndpointDeclared>(gateway).filter(|f| f.at_us() <= at_us) {
            let key = (&fact.what.instance, &fact.what.route, &fact.what.endpoint);
            declared.insert(key, fact);
        }
        for gone in self.on::<v1::EndpointWithdrawn>(gateway).filter(|f| f.at_us() <= at_us) {
            let key = (&gone.what.instance, &gone.what.route, &gone.what.endpoint);
            if declared.get(&key).is_some_and(|fact| {
                (fact.seen.boottime_us, fact.seen.id.seq)
                    <= (gone.seen.boottime_us, gone.seen.id.seq)
                    || fact.seen.id.boot != gone.seen.id.boot
            }) {
                declared.remove(&key);
            }
        }
        for gone in self.on::<v1::GatewayGone>(gateway).filter(|f| f.at_us() <= at_us) {
            declared.retain(|(instance, ..), fact| {
                **instance != gone.what.instance || fact.at_us() > gone.at_us()
            });
        }
        declared.into_values().collect()
    }
}
