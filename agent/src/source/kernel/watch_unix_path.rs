//! Reading the unix socket paths that gateways declare, and when to look again.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::inotify;
use why502_proto::{Kind, v1};

use super::thread_state::{Kernel, Task, Token};
use super::unix_path::{Bound, Inspected, inspect};
use crate::source::UnixClient;

/// Paths looked at; a gateway that declares more is told.
const PATHS_MAX: usize = 1024;
/// The net below inotify, which does not see a change of a directory further up.
const LOOK_US: u64 = 5_000_000;
/// A server binds before it listens; what looks stale is looked at again after this time before it is said.
const DOUBT_US: u64 = 60_000;

/// What the thread keeps of declared paths.
#[derive(Debug, Default)]
pub(super) struct PathSight {
    clients: Vec<UnixClient>,
    said: BTreeMap<PathBuf, (v1::UnixSocketPath, Option<u64>)>,
    /// Sockets that looked stale at this time and may be about to listen.
    doubted: BTreeMap<PathBuf, u64>,
    blind: BTreeSet<PathBuf>,
    inotify: Option<OwnedFd>,
    watched: BTreeMap<PathBuf, i32>,
    wanted: bool,
}

impl PathSight {
    /// Listeners have changed, or a directory has.
    pub(super) fn want(&mut self) {
        self.wanted = !self.clients.is_empty();
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.wanted
    }
}

impl Kernel<'_> {
    pub(super) fn unix_paths_told(&mut self, mut clients: Vec<UnixClient>) {
        clients.truncate(PATHS_MAX);
        let told: BTreeSet<&PathBuf> = clients.iter().map(|client| &client.path).collect();
        self.path_sight.said.retain(|path, _| told.contains(path));
        self.path_sight.doubted.retain(|path, _| told.contains(path));
        self.path_sight.clients = clients;
        if self.path_sight.inotify.is_none() {
            let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
            if let Ok(fd) = inotify::init(flags)
                && self.add(&fd, Token::UnixPaths).is_ok()
            {
                self.path_sight.inotify = Some(fd);
            }
        }
        self.look_at_unix_paths();
    }

    /// Something changed in a directory on the way to a path.
    pub(super) fn unix_paths_woken(&mut self) {
        let Some(fd) = &self.path_sight.inotify else { return };
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(fd, &mut buffer);
        while let Ok(event) = reader.next() {
            if event.events().contains(inotify::ReadFlags::IGNORED) {
                let gone = event.wd();
                self.path_sight.watched.retain(|_, watch| *watch != gone);
            }
        }
        self.path_sight.want();
        // A socket was made or unlinked: the listener that belongs to it changes with it.
        self.looks.want();
    }

    /// The net, and the second look at what was doubted.
    pub(super) fn unix_paths_due(&mut self) {
        if !self.path_sight.doubted.is_empty() {
            self.look_at_listeners();
        }
        self.look_at_unix_paths();
    }

    pub(super) fn look_at_unix_paths(&mut self) {
        self.path_sight.wanted = false;
        if self.path_sight.clients.is_empty() {
            return;
        }
        self.plan(Task::UnixPaths, LOOK_US);
        let bound: Vec<Bound> = self
            .listeners
            .iter()
            .filter_map(|listener| {
                let path = listener.address.strip_prefix("unix:")?;
                let path = (!path.starts_with('@')).then(|| PathBuf::from(path))?;
                Some(Bound { path, file_inode: listener.file_inode })
            })
            .collect();
        let mut directories = BTreeSet::new();
        for client in std::mem::take(&mut self.path_sight.clients) {
            self.look_at_unix_path(&client, &bound, &mut directories);
            self.path_sight.clients.push(client);
        }
        self.watch_directories(directories);
    }

    fn look_at_unix_path(
        &mut self,
        client: &UnixClient,
        bound: &[Bound],
        directories: &mut BTreeSet<PathBuf>,
    ) {
        let scope = format!("unix:{}", client.path.display());
        match inspect(&self.roots.root, client, bound) {
            Ok(inspected) => {
                directories.insert(inspected.directory.clone());
                let sight = &mut self.path_sight;
                if sight.blind.remove(&client.path) {
                    self.facts.flush(self.observer);
                    self.observer.seeing(v1::Source::Listener, &scope);
                }
                let now_us = self.facts.now_us();
                let said = sight.said.get(&client.path);
                if said.is_some_and(|(fact, _)| *fact == inspected.fact) {
                    sight.doubted.remove(&client.path);
                } else if inspected.is_doubtful(said) {
                    let since_us = *sight.doubted.entry(client.path.clone()).or_insert(now_us);
                    if now_us < since_us + DOUBT_US {
                        self.plan(Task::UnixPaths, DOUBT_US);
                        return;
                    }
                }
                let sight = &mut self.path_sight;
                sight.doubted.remove(&client.path);
                if sight.said.get(&client.path).is_none_or(|(fact, _)| *fact != inspected.fact) {
                    let said = (inspected.fact.clone(), inspected.inode);
                    sight.said.insert(client.path.clone(), said);
                    self.facts.say(Kind::UnixSocketPath(inspected.fact));
                }
            }
            Err(error) => {
                if self.path_sight.blind.insert(client.path.clone()) {
                    self.path_sight.said.remove(&client.path);
                    self.flush();
                    let reason = format!("cannot look at {}: {error}", client.path.display());
                    let grant = "CAP_DAC_READ_SEARCH";
                    self.observer.blinded(v1::Source::Listener, &scope, &reason, grant);
                }
            }
        }
    }

    fn watch_directories(&mut self, directories: BTreeSet<PathBuf>) {
        let sight = &mut self.path_sight;
        let Some(fd) = &sight.inotify else { return };
        sight.watched.retain(|directory, watch| {
            let kept = directories.contains(directory);
            if !kept {
                // Gone already is as good.
                let _ = inotify::remove_watch(fd, *watch);
            }
            kept
        });
        let flags = inotify::WatchFlags::CREATE
            | inotify::WatchFlags::DELETE
            | inotify::WatchFlags::MOVED_FROM
            | inotify::WatchFlags::MOVED_TO
            | inotify::WatchFlags::ATTRIB
            | inotify::WatchFlags::DELETE_SELF
            | inotify::WatchFlags::MOVE_SELF
            | inotify::WatchFlags::ONLYDIR;
        for directory in directories {
            if !sight.watched.contains_key(&directory)
                && let Ok(watch) = inotify::add_watch(fd, &directory, flags)
            {
                sight.watched.insert(directory, watch);
            }
        }
    }
}

impl Inspected {
    /// Whether it looks stale only because its server has bound it and does not listen yet. A socket that was alive and
    /// lost its listener is stale for sure.
    fn is_doubtful(&self, said: Option<&(v1::UnixSocketPath, Option<u64>)>) -> bool {
        let died = said.is_some_and(|(fact, inode)| {
            fact.state() == v1::UnixPathState::Alive && *inode == self.inode
        });
        self.fact.state() == v1::UnixPathState::Stale && !died
    }
}
