//! What one source saw that another one acts on: endpoints, failures, listeners. The second way out of the one queue,
//! for sources that look only when something asks for it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;
use why502_proto::{Kind, v1};

/// Endpoints that are kept; a gateway host with more has the others looked at less closely.
const ENDPOINTS_MAX: usize = 4096;
/// Symptoms that wait; they repeat every second for as long as they last, so the oldest may go.
const SYMPTOMS_MAX: usize = 256;

/// Listeners that are kept; most hosts have some dozens.
const LISTENERS_MAX: usize = 4096;

/// What names an endpoint: instance, route, address as declared.
type Endpoint = (String, String, String);

/// Shared by all observers of an agent.
#[derive(Debug, Default)]
pub struct Notices {
    kept: Mutex<Kept>,
    woken: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    endpoints: BTreeMap<Endpoint, v1::EndpointDeclared>,
    /// Who holds each listener, by address and network namespace.
    listening: BTreeMap<(String, u64), u32>,
    noticed: Noticed,
}

/// What came since the last look.
#[derive(Debug, Default)]
pub struct Noticed {
    /// Endpoints were declared or withdrawn.
    pub endpoints: bool,
    /// Listeners or addresses of the host came or went.
    pub listeners: bool,
    /// Requests that failed, queues that are not empty, complaints of app servers.
    pub symptoms: VecDeque<Kind>,
}

impl Notices {
    /// Keeps what others may act on.
    pub(super) fn note(&self, kind: &Kind) {
        if !matters(kind) {
            return;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = &mut *kept;
        match kind {
            Kind::EndpointDeclared(declared) => {
                let key = key(&declared.instance, &declared.route, &declared.endpoint);
                if kept.endpoints.len() < ENDPOINTS_MAX || kept.endpoints.contains_key(&key) {
                    kept.endpoints.insert(key, declared.clone());
                }
                kept.noticed.endpoints = true;
            }
            Kind::EndpointWithdrawn(gone) => {
                kept.endpoints.remove(&key(&gone.instance, &gone.route, &gone.endpoint));
                kept.noticed.endpoints = true;
            }
            Kind::RequestFailed(_) | Kind::AcceptQueue(_) | Kind::AppServerEvent(_) => {
                if kept.noticed.symptoms.len() == SYMPTOMS_MAX {
                    kept.noticed.symptoms.pop_front();
                }
                kept.noticed.symptoms.push_back(kind.clone());
            }
            other => {
                kept.noticed.listeners = true;
                kept.listener(other);
            }
        }
        self.woken.notify_one();
    }

    /// Waits until something came, and takes it.
    pub async fn next(&self) -> Noticed {
        self.woken.notified().await;
        std::mem::take(&mut self.kept.lock().unwrap_or_else(PoisonError::into_inner).noticed)
    }

    /// Processes that listen.
    pub fn listening(&self) -> BTreeSet<u32> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.listening.values().copied().collect()
    }

    /// All endpoints that are declared now.
    pub fn endpoints(&self) -> Vec<v1::EndpointDeclared> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.endpoints.values().cloned().collect()
    }
}

impl Kept {
    fn listener(&mut self, kind: &Kind) {
        match kind {
            Kind::ListenerOpened(opened) if opened.pid != 0 => {
                let key = (opened.address.clone(), opened.netns);
                if self.listening.len() < LISTENERS_MAX || self.listening.contains_key(&key) {
                    self.listening.insert(key, opened.pid);
                }
            }
            Kind::ListenerClosed(closed) if closed.last => {
                self.listening.remove(&(closed.address.clone(), closed.netns));
            }
            _ => {}
        }
    }
}

fn key(instance: &str, route: &str, endpoint: &str) -> Endpoint {
    (instance.to_owned(), route.to_owned(), endpoint.to_owned())
}

fn matters(kind: &Kind) -> bool {
    match kind {
        Kind::AcceptQueue(queue) => queue.depth > 0,
        Kind::ListenerOpened(_)
        | Kind::ListenerClosed(_)
        | Kind::EndpointDeclared(_)
        | Kind::EndpointWithdrawn(_)
        | Kind::RequestFailed(_)
        | Kind::AppServerEvent(_)
        | Kind::HostAddress(_)
        | Kind::HostAddressGone(_) => true,
        _ => false,
    }
}
