//! The host's own addresses: which of them a gateway's upstream address is.

use std::collections::BTreeSet;

use sysinfo::Networks;
use why502_proto::{Kind, v1};

use super::thread_state::{Kernel, Task, Token};
use crate::source::netlink::{Received, Socket};

/// `RTMGRP_LINK | RTMGRP_IPV4_IFADDR | RTMGRP_IPV6_IFADDR`, see rtnetlink(7).
const GROUPS: u32 = 0x1 | 0x10 | 0x100;
/// The net below the notices.
const LOOK_US: u64 = 60_000_000;
/// Notices come in bursts when an interface changes.
const SETTLE_US: u64 = 50_000;
/// Notices taken in one wake-up.
const NOTICES_MAX: usize = 256;

/// What the thread keeps of addresses.
#[derive(Debug, Default)]
pub(super) struct HostSight {
    notices: Option<Socket>,
    /// Address and interface.
    said: BTreeSet<(String, String)>,
    /// What was said of this source's sight.
    blind: Option<bool>,
}

impl Kernel<'_> {
    pub(super) fn subscribe_addresses(&mut self) {
        let opened = Socket::open(None, GROUPS).and_then(|socket| {
            self.add(&socket, Token::Addresses)?;
            Ok(socket)
        });
        // Without notices the looks tell, a minute late at most.
        self.host_sight.notices = opened.ok();
        self.look_at_addresses();
    }

    pub(super) fn addresses_woken(&mut self) {
        let mut buffer = [0u8; 8192];
        if let Some(socket) = &self.host_sight.notices {
            for _ in 0..NOTICES_MAX {
                match socket.receive(&mut buffer) {
                    Ok(Received::Datagram(_) | Received::Overrun) => {}
                    Ok(Received::Empty) | Err(_) => break,
                }
            }
        }
        self.plan(Task::Addresses, SETTLE_US);
    }

    pub(super) fn look_at_addresses(&mut self) {
        self.plan(Task::Addresses, LOOK_US);
        let networks = match Networks::new_with_refreshed_list() {
            Ok(networks) => networks,
            Err(error) => {
                self.tell_host(Some(format!("cannot list the host's addresses: {error}")));
                return;
            }
        };
        let addresses = networks.iter().flat_map(|(interface, data)| {
            let interface = interface.to_string_lossy();
            let address = move |ip: std::net::IpAddr| (ip.to_string(), interface.clone().into());
            data.ip_networks().iter().map(move |network| address(network.addr))
        });
        let now: BTreeSet<(String, String)> = addresses.collect();
        for (address, interface) in self.host_sight.said.difference(&now) {
            self.facts.say(Kind::HostAddressGone(v1::HostAddressGone {
                address: address.clone(),
                interface: interface.clone(),
            }));
        }
        for (address, interface) in now.difference(&self.host_sight.said) {
            self.facts.say(Kind::HostAddress(v1::HostAddress {
                address: address.clone(),
                interface: interface.clone(),
            }));
        }
        self.host_sight.said = now;
        self.tell_host(None);
    }

    fn tell_host(&mut self, reason: Option<String>) {
        if self.host_sight.blind == Some(reason.is_some()) {
            return;
        }
        self.host_sight.blind = Some(reason.is_some());
        self.flush();
        match reason {
            Some(reason) => self.observer.blinded(v1::Source::Host, "", &reason, ""),
            None => self.observer.seeing(v1::Source::Host, ""),
        }
    }
}
