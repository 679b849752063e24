//! Listeners of other network namespaces: those of containers and of units with a network of their own.
//!
//! A thread enters the namespace, opens the sockets that list it and ends; the sockets stay there (setns(2)). Without
//! CAP_SYS_ADMIN the text below /proc/PID/net must do, which is slow, has no queue limits and is read less often.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use rustix::event::epoll;
use rustix::fs::{Mode, OFlags, open};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use why502_proto::v1;

use super::net_text;
use super::proc_file;
use super::thread_state::{Kernel, NAMESPACE_TOKENS, Task};
use crate::source::sock_diag::{Destroyed, SockDiag, Socketed};

/// Namespaces looked at; each may take two sockets.
const NAMESPACES_MAX: usize = 128;
/// A look by sock_diag costs 0.1 ms, one by text 5 ms.
const LOOK_US: u64 = 1_000_000;
const LOOKS_TEXT: u64 = 10;
/// A pid by which a namespace is reached; more are kept, for when the first one ends.
const PIDS_MAX: usize = 8;

/// What the thread keeps of other namespaces.
#[derive(Debug, Default)]
pub(super) struct NamespaceSight {
    own: Option<u64>,
    /// Pids whose namespace was read.
    checked: BTreeMap<u32, u64>,
    namespaces: BTreeMap<u64, Namespace>,
    by_token: BTreeMap<u64, u64>,
    next_token: u64,
    looks: u64,
    by_text: bool,
}

#[derive(Debug)]
struct Namespace {
    pids: Vec<u32>,
    sockets: Option<(SockDiag, Option<Destroyed>)>,
}

impl NamespaceSight {
    /// Each namespace with a pid in it.
    pub(super) fn readers(&self) -> impl Iterator<Item = (u64, u32)> {
        self.namespaces.iter().filter_map(|(netns, n)| Some((*netns, *n.pids.first()?)))
    }
}

impl Kernel<'_> {
    pub(super) fn look_at_namespaces(&mut self) {
        self.plan(Task::Namespaces, LOOK_US);
        self.find_namespaces();
        self.namespace_sight.looks += 1;
        let text_too = self.namespace_sight.looks % LOOKS_TEXT == 1;
        let due: Vec<u64> = self
            .namespace_sight
            .namespaces
            .iter()
            .filter(|(_, namespace)| text_too || namespace.sockets.is_some())
            .map(|(netns, _)| *netns)
            .collect();
        for netns in due {
            self.look_at_namespace(netns);
        }
    }

    /// A socket of another namespace was destroyed.
    pub(super) fn namespace_woken(&mut self, token: u64) {
        let Some(&netns) = self.namespace_sight.by_token.get(&token) else { return };
        let namespace = self.namespace_sight.namespaces.get(&netns);
        let Some(Namespace { sockets: Some((_, Some(destroyed))), .. }) = namespace else { return };
        if let Ok((true, _)) = destroyed.drain() {
            self.look_at_namespace(netns);
        }
    }

    fn find_namespaces(&mut self) {
        let proc = &self.roots.proc;
        let sight = &mut self.namespace_sight;
        let Some(own) = sight.own.or_else(|| inode(proc, "self")) else { return };
        sight.own = Some(own);
        let processes = &self.processes;
        sight.checked.retain(|pid, _| processes.get(*pid).is_some());
        let mut found: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
        for process in self.processes.iter() {
            let pid = process.pid;
            let netns = match sight.checked.get(&pid) {
                Some(netns) => *netns,
                None => {
                    let Some(netns) = inode(proc, &pid.to_string()) else { continue };
                    sight.checked.insert(pid, netns);
                    netns
                }
            };
            let pids = found.entry(netns).or_default();
            if netns != own && pids.len() < PIDS_MAX {
                pids.push(pid);
            }
        }
        found.remove(&own);
        let known: BTreeSet<u64> = sight.namespaces.keys().copied().collect();
        for netns in known {
            match found.remove(&netns) {
                Some(pids) => {
                    if let Some(namespace) = self.namespace_sight.namespaces.get_mut(&netns) {
                        namespace.pids = pids;
                    }
                }
                None => self.leave_namespace(netns),
            }
        }
        for (netns, pids) in found {
            if self.namespace_sight.namespaces.len() < NAMESPACES_MAX {
                self.enter_namespace(netns, pids);
            }
        }
    }

    fn enter_namespace(&mut self, netns: u64, pids: Vec<u32>) {
        let entered = pids.first().map(|pid| enter(&self.roots.proc, *pid));
        let sockets = match entered {
            Some(Ok(sockets)) => Some(sockets),
            Some(Err(error)) => {
                self.tell_text(&error);
                None
            }
            None => None,
        };
        if let Some((_, Some(destroyed))) = &sockets {
            let token = NAMESPACE_TOKENS + self.namespace_sight.next_token;
            self.namespace_sight.next_token += 1;
            if self.add_flags(destroyed, token, epoll::EventFlags::IN).is_ok() {
                self.namespace_sight.by_token.insert(token, netns);
            }
        }
        self.namespace_sight.namespaces.insert(netns, Namespace { pids, sockets });
        self.look_at_namespace(netns);
    }

    fn leave_namespace(&mut self, netns: u64) {
        self.namespace_sight.namespaces.remove(&netns);
        self.namespace_sight.by_token.retain(|_, other| *other != netns);
        self.listeners.forget_namespace(netns, &mut self.facts);
    }

    fn tell_text(&mut self, error: &io::Error) {
        if std::mem::replace(&mut self.namespace_sight.by_text, true) {
            return;
        }
        self.flush();
        let reason = format!(
            "cannot enter other network namespaces: {error}; their listeners are seen within 10 s"
        );
        self.observer.blinded(v1::Source::Listener, "namespaces", &reason, "CAP_SYS_ADMIN");
    }

    fn look_at_namespace(&mut self, netns: u64) {
        let Some(namespace) = self.namespace_sight.namespaces.get(&netns) else { return };
        let found = match &namespace.sockets {
            Some((sock_diag, _)) => sock_diag.listeners(),
            None => by_text(&self.roots.proc, &namespace.pids),
        };
        // What could not be read is not closed.
        let Ok(found) = found else { return };
        if self.listeners.look(netns, found, &mut self.facts) {
            self.path_sight.want();
            self.find_owners();
            self.listeners.say_opened(&mut self.facts);
        }
    }
}

/// The inode of a process's network namespace.
fn inode(proc: &Path, pid: &str) -> Option<u64> {
    let link = std::fs::read_link(proc.join(pid).join("ns/net")).ok()?;
    link.to_str()?.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// Opens sockets in the network namespace of a process.
fn enter(proc: &Path, pid: u32) -> io::Result<(SockDiag, Option<Destroyed>)> {
    let path = proc.join(format!("{pid}/ns/net"));
    let namespace = open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let enterer = std::thread::Builder::new().name("why502-netns".to_owned()).spawn(move || {
        move_into_link_name_space(
            std::os::fd::AsFd::as_fd(&namespace),
            Some(LinkNameSpaceType::Network),
        )?;
        Ok((SockDiag::open()?, Destroyed::open().ok()))
    })?;
    enterer.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace failed")))
}

/// Listeners by the text files of a process of the namespace.
fn by_text(proc: &Path, pids: &[u32]) -> io::Result<Vec<Socketed>> {
    let pid = pids.first().ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let mut found = Vec::new();
    for (name, parse) in net_text::FILES {
        let text = proc_file::read_long(&proc.join(format!("{pid}/net/{name}")));
        match text {
            Ok(text) => found.extend(parse(&String::from_utf8_lossy(&text))),
            Err(error) if *name == "tcp6" && error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}
