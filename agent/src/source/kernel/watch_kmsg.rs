//! Reading /dev/kmsg, and whom its lines are about.
//!
//! All containers of a machine share one log, whose pids are those of the first namespace and whose cgroup paths
//! begin at the real root. In the first namespaces a line speaks for itself. Elsewhere it is believed only when an end
//! of the path is a cgroup of this host, and a counter or a death of this host confirms it.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags, SeekFrom, open, seek};
use rustix::io::Errno;
use why502_proto::{Kind, v1};

use super::kmsg::{self, Chosen, Line};
use super::process::Process;
use super::thread_state::{Kernel, Token};
use crate::source::cgroup::of_path;
use why502_gateway::redact;

/// Inode of the first pid namespace (include/linux/proc_ns.h).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";
/// Inode of the first cgroup namespace.
const FIRST_CGROUP_NAMESPACE: &str = "cgroup:[4026531835]";
/// A record is at most this long (`PRINTK_MESSAGE_MAX` and its prefix).
const RECORD_BYTES: usize = 8192;
/// Records taken in one wake-up.
const RECORDS_MAX: usize = 256;
/// Lines, chosen victims and deaths that are kept to be matched.
const KEPT_MAX: usize = 32;
/// For how long: the counter, the line and the death come within some 100 ms of each other.
const KEPT_US: u64 = 2_000_000;

/// What is kept between a line and what confirms it.
#[derive(Debug, Default)]
pub(super) struct LogSight {
    fd: Option<OwnedFd>,
    first_pids: bool,
    first_cgroups: bool,
    /// Chosen victims whose line of death is still to come.
    chosen: VecDeque<(u64, Chosen)>,
    /// Lines that nothing on this host confirms yet.
    waiting: VecDeque<(u64, Line, Chosen)>,
    /// Deaths of this host by a signal: when, which, whose.
    deaths: VecDeque<(u64, u32, Process)>,
    /// When the full table was said last.
    pub(super) table_full_us: u64,
}

impl Kernel<'_> {
    pub(super) fn subscribe_log(&mut self) {
        let namespace = |name: &str| {
            let link = self.roots.proc.join("self/ns").join(name);
            std::fs::read_link(link).is_ok_and(|target| {
                target == Path::new(FIRST_PID_NAMESPACE)
                    || target == Path::new(FIRST_CGROUP_NAMESPACE)
            })
        };
        self.log_sight.first_pids = namespace("pid");
        self.log_sight.first_cgroups = namespace("cgroup");
        let path = self.roots.dev.join("kmsg");
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = open(&path, flags, Mode::empty()).and_then(|fd| {
            // Only what comes from now on.
            seek(&fd, SeekFrom::End(0))?;
            self.add_flags(&fd, Token::KernelLog as u64, rustix::event::epoll::EventFlags::IN)?;
            Ok(fd)
        });
        match opened {
            Ok(fd) => {
                self.log_sight.fd = Some(fd);
                self.observer.seeing(v1::Source::KernelLog, "");
            }
            Err(error) => {
                let reason =
                    format!("cannot read {}: {}", path.display(), std::io::Error::from(error));
                let grant = match error {
                    Errno::PERM | Errno::ACCESS => "CAP_SYSLOG",
                    _ => "make /dev/kmsg available to the agent",
                };
                self.observer.blinded(v1::Source::KernelLog, "", &reason, grant);
            }
        }
    }

    /// What the kernel says of this host's processes is read.
    pub(super) fn log_is_read(&self) -> bool {
        self.log_sight.fd.is_some()
    }

    pub(super) fn log_woken(&mut self) {
        let Some(fd) = self.log_sight.fd.take() else { return };
        let mut buffer = [0u8; RECORD_BYTES];
        for _ in 0..RECORDS_MAX {
            match rustix::io::read(&fd, &mut buffer) {
                Ok(length) => {
                    let text = kmsg::record(buffer.get(..length).unwrap_or_default());
                    if let Some(line) = text.as_deref().and_then(kmsg::parse) {
                        self.log_line(line);
                    }
                }
                Err(Errno::PIPE) => {
                    // Overwritten before it was read; the next read goes on behind the gap.
                    self.flush();
                    let reason = "the kernel log was overwritten faster than it was read";
                    self.observer.blinded(v1::Source::KernelLog, "", reason, "log_buf_len=");
                    self.observer.seeing(v1::Source::KernelLog, "");
                }
                Err(Errno::INTR | Errno::INVAL) => {}
                Err(_) => break,
            }
        }
        self.log_sight.fd = Some(fd);
    }

    fn log_line(&mut self, line: Line) {
        let now_us = self.facts.now_us();
        match line {
            Line::OomChosen(chosen) => keep(&mut self.log_sight.chosen, (now_us, chosen)),
            Line::OomKilled { pid, .. } => {
                let chosen = &mut self.log_sight.chosen;
                let at = chosen.iter().position(|(_, chosen)| chosen.pid == pid);
                let chosen = at.and_then(|at| chosen.remove(at)).map(|(_, chosen)| chosen);
                self.say_or_wait(line, chosen.unwrap_or_default());
            }
            Line::Crashed { .. } => self.say_or_wait(line, Chosen::default()),
            Line::TableFull { netns } => self.table_full(netns),
            Line::ForkRejected { cgroup } => self.fork_rejected(&cgroup),
        }
    }

    /// A process of this host ended: it may be what a line waits for.
    pub(super) fn log_after_exit(&mut self, process: &Process, code: Option<u32>, at_us: u64) {
        let Some(signal) = code.map(|code| code & 0x7f).filter(|&signal| signal != 0) else {
            return;
        };
        keep(&mut self.log_sight.deaths, (at_us, signal, process.clone()));
        self.match_waiting();
    }

    /// Says the lines that are confirmed by now, and drops those that are too old.
    pub(super) fn match_waiting(&mut self) {
        let now_us = self.facts.now_us();
        for (at_us, line, chosen) in std::mem::take(&mut self.log_sight.waiting) {
            if at_us + KEPT_US > now_us && !self.say_line(at_us, &line, &chosen) {
                self.log_sight.waiting.push_back((at_us, line, chosen));
            }
        }
    }

    fn say_or_wait(&mut self, line: Line, chosen: Chosen) {
        let now_us = self.facts.now_us();
        if !self.say_line(now_us, &line, &chosen) {
            keep(&mut self.log_sight.waiting, (now_us, line, chosen));
        }
    }

    /// Says a line if it is about this host. `false`: nothing confirms it yet.
    fn say_line(&mut self, at_us: u64, line: &Line, chosen: &Chosen) -> bool {
        let kind = match line {
            Line::OomKilled { in_cgroup, pid, comm, anon_rss_kib } => {
                let Some(cgroup) = self.own_cgroup(&chosen.cgroup, *pid, at_us) else {
                    return false;
                };
                let limit_cgroup = self.own_path(&chosen.limit_cgroup, at_us).unwrap_or_default();
                let limit = self.memory.get_late(&limit_cgroup, at_us).and_then(|c| c.last.limit);
                let scope = if *in_cgroup { v1::OomScope::Cgroup } else { v1::OomScope::Global };
                let member = of_path(&cgroup);
                Kind::OomKill(v1::OomKill {
                    scope: scope.into(),
                    unit: member.unit,
                    container: member.container,
                    cgroup,
                    limit_cgroup,
                    pid: if self.log_sight.first_pids { *pid } else { 0 },
                    comm: redact::line(comm),
                    anon_rss_kib: *anon_rss_kib,
                    limit_bytes: limit.filter(|_| *in_cgroup),
                    count: 0,
                    witness: v1::Witness::KernelLog.into(),
                })
            }
            Line::Crashed { pid, comm, signal, text } => {
                let Some((pid, unit)) = self.own_crash(*pid, comm, *signal, at_us) else {
                    return false;
                };
                Kind::CrashReported(v1::CrashReported {
                    pid,
                    comm: redact::line(comm),
                    exe: String::new(),
                    unit,
                    signal: *signal,
                    text: redact::line(text),
                    core_stored: false,
                    witness: v1::Witness::KernelLog.into(),
                })
            }
            _ => return true,
        };
        self.facts.say_at(at_us, kind);
        true
    }

    /// The victim's cgroup as this host names it. `None`: it is not known to be this host's.
    fn own_cgroup(&self, path: &str, pid: u32, at_us: u64) -> Option<String> {
        if self.log_sight.first_cgroups && self.log_sight.first_pids {
            if path.is_empty() {
                // The summary line was suppressed; the process may still be known.
                let known = self.processes.get(pid).map(|process| process.member.path.clone());
                return Some(known.unwrap_or_default());
            }
            return Some(path.to_owned());
        }
        let own = self.own_path(path, at_us)?;
        let home = of_path(&own).unit;
        let near = |us: u64| us.abs_diff(at_us) < KEPT_US;
        let counted = self.memory.get_late(&own, at_us).and_then(|c| c.killed_us).is_some_and(near);
        let died = self.log_sight.deaths.iter().any(|(us, signal, process)| {
            near(*us) && *signal == 9 && !home.is_empty() && home == process.member.unit
        });
        (counted || died).then_some(own)
    }

    /// The longest end of a path that is a memory cgroup of this host, or was one when its victim died.
    pub(super) fn own_path(&self, path: &str, at_us: u64) -> Option<String> {
        if self.log_sight.first_cgroups {
            return Some(path.to_owned());
        }
        let ends = path.match_indices('/').map(|(at, _)| &path[at..]).filter(|end| end.len() > 1);
        let known = |end: &&str| {
            let below = end.trim_start_matches('/');
            self.memory.get_late(end, at_us).is_some()
                || self.roots.sys.join("fs/cgroup/memory").join(below).exists()
                || self.roots.sys.join("fs/cgroup").join(below).exists()
        };
        ends.into_iter().find(known).map(str::to_owned)
    }

    /// Pid and unit of a crash on this host.
    fn own_crash(&self, pid: u32, comm: &str, signal: u32, at_us: u64) -> Option<(u32, String)> {
        if self.log_sight.first_pids {
            let process = self
                .processes
                .get(pid)
                .or_else(|| self.log_sight.deaths.iter().map(|(_, _, p)| p).find(|p| p.pid == pid));
            return Some((pid, process.map_or_else(String::new, |p| p.member.unit.clone())));
        }
        let death = self.log_sight.deaths.iter().find(|(us, died_of, process)| {
            // A name in parentheses is systemd's, from before the program ran.
            let name = process.comm.trim_matches(['(', ')']);
            us.abs_diff(at_us) < KEPT_US && *died_of == signal && name == comm
        });
        death.map(|(_, _, process)| (process.pid, process.member.unit.clone()))
    }
}

fn keep<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() == KEPT_MAX {
        queue.pop_front();
    }
    queue.push_back(item);
}
