//! The deaths of watched processes by pidfd: works in every namespace and for every user (pidfd_open(2)).
//!
//! A pidfd is readable when the whole process has ended. Its status then stands in the zombie's /proc/PID/stat, or in
//! the pidfd itself once the parent has reaped it, which the pidfd tells by hanging up (Linux 6.15).

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::event::epoll;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::proc_file;
use super::process::Process;
use crate::hostfd::pidfd_exit_code;

/// Processes watched at once. Each takes one descriptor of the service's LimitNOFILE, which is 1024 by default.
const WATCHED_MAX: usize = 768;

/// A watched process.
#[derive(Debug)]
struct Watched {
    pid: u32,
    fd: OwnedFd,
    /// Its end was said, without its status.
    ended: Option<(Process, Vec<String>)>,
}

/// What a pidfd told.
#[derive(Debug)]
pub(super) enum Told {
    /// It ended just now; `comm` as its zombie shows it.
    Ended { pid: u32, code: Option<u32>, comm: Option<String> },
    /// The status of one that was said to have ended.
    Status { process: Box<Process>, listeners: Vec<String>, code: u32 },
    /// Nothing new.
    Nothing,
}

/// All pidfds, by a number that is never used twice.
#[derive(Debug)]
pub(super) struct Pidfds {
    watched: BTreeMap<u64, Watched>,
    by_pid: BTreeMap<u32, u64>,
    next: u64,
    /// Numbers above this belong to pidfds.
    base: u64,
    /// A status of 0 in /proc may be believed: the agent may look into any process.
    may_look: bool,
}

impl Pidfds {
    pub(super) fn new(base: u64, may_look: bool) -> Self {
        Self { watched: BTreeMap::new(), by_pid: BTreeMap::new(), next: base, base, may_look }
    }

    /// Begins to watch. An error says that this process cannot be watched.
    pub(super) fn watch(&mut self, epoll: BorrowedFd<'_>, pid: u32) -> io::Result<()> {
        if self.by_pid.contains_key(&pid) {
            return Ok(());
        }
        if self.watched.len() >= WATCHED_MAX {
            return Err(io::Error::other("too many processes to watch"));
        }
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw);
        let raw = raw.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        let fd = pidfd_open(raw, PidfdFlags::NONBLOCK)?;
        let token = self.next;
        self.next += 1;
        epoll::add(epoll, &fd, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?;
        self.watched.insert(token, Watched { pid, fd, ended: None });
        self.by_pid.insert(pid, token);
        Ok(())
    }

    pub(super) fn is_watched(&self, pid: u32) -> bool {
        self.by_pid.contains_key(&pid)
    }

    /// Whether a token of epoll is one of these.
    pub(super) fn owns(&self, token: u64) -> bool {
        (self.base..self.next).contains(&token)
    }

    /// Ends the watch of a process whose end was learned otherwise.
    pub(super) fn forget(&mut self, pid: u32) {
        if let Some(token) = self.by_pid.remove(&pid) {
            self.watched.remove(&token);
        }
    }

    /// A pidfd woke us.
    pub(super) fn woken(&mut self, proc: &Path, token: u64, hung_up: bool) -> Told {
        let Some(watched) = self.watched.get_mut(&token) else { return Told::Nothing };
        let pid = watched.pid;
        if watched.ended.is_none() {
            let (code, comm) = self.last_state(proc, token, pid);
            self.by_pid.remove(&pid);
            if code.is_some() || hung_up {
                self.watched.remove(&token);
            }
            return Told::Ended { pid, code, comm };
        }
        let code = pidfd_exit_code(watched.fd.as_fd()).ok().flatten();
        let Some((process, listeners)) = self.watched.remove(&token).and_then(|w| w.ended) else {
            return Told::Nothing;
        };
        match code {
            Some(code) => Told::Status { process: Box::new(process), listeners, code },
            None => Told::Nothing,
        }
    }

    /// The end of the process behind `token` was said without status: waits for its parent to reap it.
    pub(super) fn await_status(
        &mut self,
        epoll: BorrowedFd<'_>,
        token: u64,
        process: Process,
        listeners: Vec<String>,
    ) {
        let Some(watched) = self.watched.get_mut(&token) else { return };
        // Readable for good from now on; only the hang-up is news, which is always told.
        let data = epoll::EventData::new_u64(token);
        if epoll::modify(epoll, &watched.fd, data, epoll::EventFlags::empty()).is_err() {
            self.watched.remove(&token);
            return;
        }
        watched.ended = Some((process, listeners));
    }

    /// Drops what is not worth waiting for.
    pub(super) fn drop_token(&mut self, token: u64) {
        self.watched.remove(&token);
    }

    fn last_state(&self, proc: &Path, token: u64, pid: u32) -> (Option<u32>, Option<String>) {
        // While it is a zombie its pid is its own.
        let zombie = proc_file::stat(proc, pid).ok().filter(|stat| stat.state == b'Z');
        let code = zombie.as_ref().map(|stat| stat.exit_code);
        let code = code.filter(|&code| code != 0 || self.may_look).or_else(|| {
            let watched = self.watched.get(&token)?;
            pidfd_exit_code(watched.fd.as_fd()).ok().flatten()
        });
        (code, zombie.map(|stat| stat.comm))
    }
}
