//! The kernel's lines as the journal keeps them, for an agent that may not read /dev/kmsg itself.
//!
//! Only in the first namespaces: elsewhere the lines name processes and cgroups of other hosts.

use std::fs;
use std::path::Path;

use why502_proto::{Kind, v1};

use crate::source::cgroup;
use crate::source::kernel::kmsg::{self, Chosen, Line};
use why502_gateway::redact;

/// Inodes of the first pid and cgroup namespaces, include/linux/proc_ns.h.
const FIRST: [(&str, &str); 2] =
    [("self/ns/pid", "pid:[4026531836]"), ("self/ns/cgroup", "cgroup:[4026531835]")];

/// Whether the kernel's pids and paths are those that we see.
pub(super) fn are_ours(root: &Path) -> bool {
    FIRST.iter().all(|(link, name)| {
        fs::read_link(root.join("proc").join(link)).is_ok_and(|found| found.as_os_str() == *name)
    })
}

/// Puts together the two lines that tell of one victim of the OOM killer.
#[derive(Debug, Default)]
pub(super) struct KernelLines {
    chosen: Chosen,
}

impl KernelLines {
    /// What a line says.
    pub(super) fn fact(&mut self, text: &str) -> Option<Kind> {
        match kmsg::parse(text)? {
            Line::OomChosen(chosen) => {
                self.chosen = chosen;
                None
            }
            Line::OomKilled { in_cgroup, pid, comm, anon_rss_kib } => {
                // The line before may be of another kill: the kernel leaves some of them out.
                let chosen = std::mem::take(&mut self.chosen);
                let chosen = if chosen.pid == pid { chosen } else { Chosen::default() };
                let member = cgroup::of_path(&chosen.cgroup);
                let scope = if in_cgroup { v1::OomScope::Cgroup } else { v1::OomScope::Global };
                Some(Kind::OomKill(v1::OomKill {
                    scope: scope.into(),
                    unit: member.unit,
                    container: member.container,
                    cgroup: chosen.cgroup,
                    limit_cgroup: chosen.limit_cgroup,
                    pid,
                    comm: redact::line(comm),
                    anon_rss_kib,
                    witness: v1::Witness::KernelLog.into(),
                    ..v1::OomKill::default()
                }))
            }
            Line::Crashed { pid, comm, signal, text } => {
                Some(Kind::CrashReported(v1::CrashReported {
                    pid,
                    comm: redact::line(comm),
                    signal,
                    text: redact::line(text),
                    witness: v1::Witness::KernelLog.into(),
                    ..v1::CrashReported::default()
                }))
            }
            // Their counters tell more, and only who reads the log itself looks at those.
            Line::TableFull { .. } | Line::ForkRejected { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use why502_proto::{fields_text, kind_name};

    use super::*;

    #[track_caller]
    fn check(lines: &[&str], expect: &str) {
        let mut kernel = KernelLines::default();
        let said: Vec<String> = lines
            .iter()
            .filter_map(|line| kernel.fact(line))
            .map(|kind| format!("{} {}", kind_name(&kind), fields_text(&kind)))
            .collect();
        assert_eq!(said.join("\n"), expect);
    }

    const CHOSEN: &str = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,\
        mems_allowed=0,oom_memcg=/system.slice/api.service,\
        task_memcg=/system.slice/api.service,task=python3,pid=4121,uid=0";
    const KILLED: &str = "Memory cgroup out of memory: Killed process 4121 (python3) \
        total-vm:90000kB, anon-rss:61000kB, file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:200kB \
        oom_score_adj:0";

    #[test]
    fn two_lines_tell_of_one_kill() {
        check(
            &[CHOSEN, "unrelated", KILLED],
            "oom_kill scope=cgroup unit=api.service cgroup=/system.slice/api.service \
             limit_cgroup=/system.slice/api.service pid=4121 comm=python3 anon_rss_kib=61000 \
             witness=kernel_log",
        );
    }

    #[test]
    fn the_line_of_another_victim_is_not_borrowed() {
        check(
            &[&CHOSEN.replace("4121", "77"), KILLED],
            "oom_kill scope=cgroup pid=4121 comm=python3 anon_rss_kib=61000 witness=kernel_log",
        );
    }

    #[test]
    fn crashes_too() {
        check(
            &["app[31]: segfault at 0 ip 00005 sp 00007 error 4 in app[1000+1]"],
            "crash_reported pid=31 comm=app signal=11 \
             text=\"segfault at 0 ip 00005 sp 00007 error 4 in app[1000+1]\" witness=kernel_log",
        );
    }
}
