//! Reading nf_tables: at the start, when it says that it changed, and while a rule that is in the
//! way counts.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::time::Instant;
use why502_proto::{Kind, v1};

use super::firewall::{Firewall, Wanted};
use super::rtnetlink::Rtnetlink;
use super::ruleset::{Ruleset, Tables};
use super::watch_paths::WatchPaths;
use crate::clock::Moment;
use crate::observe::Observer;
use crate::source::Roots;
use crate::source::netlink::Socket;
use crate::source::sock_diag::SockDiag;

/// Part of the source that goes blind by itself.
const SCOPE: &str = "firewall";
/// Addresses and ports that are followed through the rules.
const WANTED_MAX: usize = 2048;
/// Counters are read again after this, and after twice as long each time that they moved: a rule
/// that drops the noise of the internet counts all day.
const COUNT: Duration = Duration::from_secs(5);
const COUNT_MAX: Duration = Duration::from_secs(320);
/// Tables of iptables that are not nf_tables', below /proc.
const LEGACY: [&str; 2] = ["net/ip_tables_names", "net/ip6_tables_names"];

pub(super) struct WatchFirewall {
    proc: PathBuf,
    tables: io::Result<Tables>,
    notices: Option<AsyncFd<Socket>>,
    firewall: Firewall,
    /// Why it is blind, as it was said.
    blind: Option<String>,
    count_every: Duration,
    counted: Instant,
}

impl WatchFirewall {
    pub(super) fn start(roots: &Roots, _observer: &Observer) -> Self {
        Self {
            proc: roots.proc.clone(),
            tables: Tables::open(),
            notices: super::watched(Tables::notices()).ok(),
            firewall: Firewall::default(),
            blind: Some(String::new()),
            count_every: COUNT,
            counted: Instant::now(),
        }
    }

    pub(super) fn notices(&self) -> Option<&AsyncFd<Socket>> {
        self.notices.as_ref()
    }

    /// When counters are to be read.
    pub(super) fn count_due(&self) -> Option<Instant> {
        self.firewall.counts().then(|| self.counted + self.count_every)
    }

    /// Reads the rules, and follows them for everything that listens here or that a gateway here
    /// declares.
    pub(super) fn look(
        &mut self,
        paths: &WatchPaths,
        at: Moment,
        existing: bool,
        observer: &Observer,
    ) {
        self.counted = Instant::now();
        let read = match &self.tables {
            Ok(tables) => tables.read(),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        let ruleset = match read {
            Ok(ruleset) => ruleset,
            // A kernel without nf_tables has no rules in it.
            Err(error) if error.raw_os_error() == Some(NO_SUBSYSTEM) => Ruleset::default(),
            Err(error) => {
                let denied = error.kind() == io::ErrorKind::PermissionDenied;
                let grant = if denied { "CAP_NET_ADMIN" } else { "" };
                self.tell(Some((format!("cannot read nf_tables: {error}"), grant)), observer);
                return;
            }
        };
        if ruleset.bases.is_empty() && self.firewall.is_empty() {
            self.tell(self.unread(&ruleset), observer);
            return;
        }
        let wanted = match wanted(paths) {
            Ok(wanted) => wanted,
            Err(error) => {
                let reason = format!("cannot list what listens here: {error}");
                self.tell(Some((reason, "")), observer);
                return;
            }
        };
        let facts = self.firewall.look(&ruleset, &wanted, existing);
        self.count_every = match facts.is_empty() {
            true => self.count_every,
            false if facts.iter().all(|fact| matches!(fact, Kind::FirewallBlock(_))) => {
                (self.count_every * 2).min(COUNT_MAX)
            }
            false => COUNT,
        };
        for fact in facts {
            observer.observe_at(at, fact);
        }
        self.tell(self.unread(&ruleset), observer);
    }

    /// What decides about packets here, and was not followed.
    fn unread(&self, ruleset: &Ruleset) -> Option<(String, &'static str)> {
        let mut legacy = BTreeSet::new();
        for name in LEGACY {
            match std::fs::read_to_string(self.proc.join(name)) {
                Ok(names) => legacy.extend(names.split_whitespace().map(str::to_owned)),
                // A kernel without it has no such file.
                Err(error) if error.kind() != io::ErrorKind::PermissionDenied => {}
                Err(error) => {
                    let reason = format!("cannot tell whether iptables-legacy has rules: {error}");
                    return Some((reason, "CAP_DAC_READ_SEARCH"));
                }
            }
        }
        if !legacy.is_empty() {
            let tables: Vec<String> = legacy.into_iter().collect();
            let reason =
                format!("rules of iptables-legacy (tables {}) are not read", tables.join(", "));
            return Some((reason, "use iptables-nft instead of iptables-legacy"));
        }
        let full = ruleset.cut || self.firewall.full;
        full.then(|| ("more rules than are followed".to_owned(), ""))
    }

    fn tell(&mut self, blind: Option<(String, &'static str)>, observer: &Observer) {
        let reason = blind.as_ref().map(|(reason, _)| reason.clone());
        if self.blind == reason {
            return;
        }
        match blind {
            Some((reason, grant)) => {
                observer.blinded(v1::Source::Network, SCOPE, &reason, grant);
            }
            None => observer.seeing(v1::Source::Network, SCOPE),
        }
        self.blind = reason;
    }
}

/// `-EINVAL`: nfnetlink knows no such subsystem.
const NO_SUBSYSTEM: i32 = 22;

/// Everything that connections of gateways may lead to here, and from here.
fn wanted(paths: &WatchPaths) -> io::Result<Vec<Wanted>> {
    let rtnetlink = Rtnetlink::open()?;
    let links = rtnetlink.links()?;
    let addresses = rtnetlink.addresses()?;
    let name = |index: u32| {
        let link = links.iter().find(|link| link.index == index);
        (index, link.map(|link| link.name.clone()).unwrap_or_default())
    };
    let mut wanted = BTreeSet::new();
    for (listens, v6_only) in SockDiag::open()?.tcp_listeners()? {
        let any = listens.ip().is_unspecified();
        for &(address, index) in &addresses {
            let takes = match (listens.ip(), address) {
                (IpAddr::V4(_), IpAddr::V4(_)) if any => true,
                (IpAddr::V6(_), IpAddr::V6(address)) if any => !address.is_unicast_link_local(),
                (IpAddr::V6(_), IpAddr::V4(_)) if any => !v6_only,
                (own, address) => own.to_canonical() == address,
            };
            if takes {
                wanted.insert(Wanted {
                    address: std::net::SocketAddr::new(address, listens.port()),
                    interface: name(index),
                    from: None,
                    incoming: true,
                });
            }
        }
    }
    for (address, way) in paths.ways() {
        wanted.insert(Wanted {
            address,
            interface: name(way.interface),
            from: way.source,
            incoming: false,
        });
    }
    Ok(wanted.into_iter().take(WANTED_MAX).collect())
}
