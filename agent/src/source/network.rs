//! What stands between a gateway and its endpoints: firewall rules, routes, neighbours, links, and what names lead to.
//!
//! Everything is read once and then only when the kernel says that it changed, so an idle host costs nothing. Costly
//! looks (sockets towards one address, names) are taken only when a request failed in a way that asks for them.

use std::future::pending;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until};
use why502_proto::{Kind, v1};

use crate::clock::Moment;
use crate::observe::{Noticed, Notices, Observer};
use crate::source::Roots;
use crate::source::netlink::{Received, Socket};

mod compat;
mod expression;
mod firewall;
mod quotas;
mod ranges;
mod rtnetlink;
mod ruleset;
mod symptoms;
mod take;
mod walk;
mod watch_firewall;
mod watch_paths;
mod words;

use quotas::Quotas;
use symptoms::Symptoms;
use watch_firewall::WatchFirewall;
use watch_paths::WatchPaths;

/// Changes come in bursts: a firewall is loaded rule by rule, an interface comes up in steps.
const SETTLE: Duration = Duration::from_millis(50);
/// What is found until then existed when the agent began to look.
const FIRST: Duration = Duration::from_secs(2);
/// Datagrams taken in one wake-up.
const DATAGRAMS_MAX: usize = 256;
/// Longest message of a notice.
const BUFFER_BYTES: usize = 16 << 10;

/// Watches until it is dropped.
pub async fn run(roots: Roots, observer: Observer) {
    let notices = observer.notices();
    let mut network = Network {
        firewall: WatchFirewall::start(&roots, &observer),
        paths: WatchPaths::start(&observer),
        symptoms: Symptoms::new(roots.clone(), observer.clone()),
        quotas: Quotas::new(roots, observer.clone()),
        observer,
        begun: Instant::now(),
    };
    network.look(Moment::now(), true);
    network.observer.seeing(v1::Source::Network, "");
    network.run(&notices).await;
}

/// A look that is to be taken, and when what asks for it was noticed.
#[derive(Clone, Copy)]
struct Due {
    when: Instant,
    noticed: Moment,
}

struct Network {
    observer: Observer,
    firewall: WatchFirewall,
    paths: WatchPaths,
    symptoms: Symptoms,
    quotas: Quotas,
    begun: Instant,
}

impl Network {
    async fn run(&mut self, notices: &Arc<Notices>) {
        let mut firewall_due: Option<Due> = None;
        let mut paths_due: Option<Due> = None;
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let count_due = self.firewall.count_due();
            let dues = [firewall_due, paths_due].into_iter().flatten().map(|due| due.when);
            let due = dues.chain(count_due).min();
            let soon = Some(Due { when: Instant::now() + SETTLE, noticed: Moment::now() });
            tokio::select! {
                () = drained(self.firewall.notices()) => firewall_due = firewall_due.or(soon),
                routed = self.paths.changed(&mut buffer) => {
                    if routed {
                        paths_due = paths_due.or(soon);
                    }
                }
                noticed = notices.next() => {
                    let Noticed { endpoints, listeners, symptoms } = noticed;
                    if endpoints {
                        self.paths.set_endpoints(notices.endpoints());
                        paths_due = paths_due.or(soon);
                    }
                    if listeners {
                        firewall_due = firewall_due.or(soon);
                        self.quotas.set_processes(notices.listening());
                    }
                    // Whoever is slow may be held back.
                    if symptoms.iter().any(|symptom| matches!(symptom, Kind::AcceptQueue(_))) {
                        self.quotas.search();
                    }
                    for symptom in &symptoms {
                        self.symptoms.act(symptom, notices);
                    }
                }
                () = reached(self.quotas.due()) => self.quotas.look(),
                () = reached(due) => {
                    let now = Instant::now();
                    let is = |due: &mut Option<Due>| due.take_if(|due| due.when <= now);
                    let (rules, paths) = (is(&mut firewall_due), is(&mut paths_due));
                    let counts = count_due.is_some_and(|due| due <= now);
                    // Another way may leave by another interface, which rules may ask for.
                    if let Some(at) = rules.or(paths).map(|due| due.noticed) {
                        self.look(at, paths.is_some());
                    } else if counts {
                        self.look(Moment::now(), false);
                    }
                }
            }
        }
    }

    /// `at`: when the kernel gave notice.
    fn look(&mut self, at: Moment, paths: bool) {
        let existing = self.begun.elapsed() < FIRST;
        if paths {
            self.paths.look(at, existing, &self.observer);
        }
        self.firewall.look(&self.paths, at, existing, &self.observer);
    }
}

async fn reached(due: Option<Instant>) {
    match due {
        Some(due) => sleep_until(due).await,
        None => pending().await,
    }
}

/// Waits until a socket has something to read, and throws it away.
async fn drained(socket: Option<&AsyncFd<Socket>>) {
    let Some(socket) = socket else { return pending().await };
    let Ok(mut ready) = socket.readable().await else { return pending().await };
    for _ in 0..DATAGRAMS_MAX {
        match socket.get_ref().receive(&mut [0; 64]) {
            Ok(Received::Datagram(_) | Received::Overrun) => {}
            Ok(Received::Empty) | Err(_) => {
                ready.clear_ready();
                break;
            }
        }
    }
}

#[expect(
    deprecated,
    reason = "its successor is unsafe; a `Socket` owns its descriptor and never gives it away"
)]
fn watched(socket: io::Result<Socket>) -> io::Result<AsyncFd<Socket>> {
    AsyncFd::new(socket?)
}
