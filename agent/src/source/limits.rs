//! Limits of processes and of the host, read when something asks for it.

use std::path::Path;

use why502_proto::{Kind, v1};

use super::Roots;
use super::cgroup::of_path;
use super::kernel::proc_file;

/// Where the controllers of both kinds of hierarchy are, below /sys.
const V2: &str = "fs/cgroup";
const V1_PIDS: &str = "fs/cgroup/pids";
const V1_CPU: [&str; 2] = ["fs/cgroup/cpu", "fs/cgroup/cpu,cpuacct"];

/// Entries of a directory of descriptors that are counted; nobody has a limit beyond it that matters.
const COUNTED_MAX: usize = 1 << 20;

/// Open files of a process against its soft limit.
pub(super) fn files(proc: &Path, pid: u32) -> Option<Kind> {
    let home = proc.join(pid.to_string());
    let limits = std::fs::read_to_string(home.join("limits")).ok()?;
    let limit = soft_limit(&limits, "Max open files")?;
    let used = std::fs::read_dir(home.join("fd")).ok()?.take(COUNTED_MAX).count();
    let stat = proc_file::stat(proc, pid).ok()?;
    let unit = proc_file::member(proc, pid).map(|member| member.unit).unwrap_or_default();
    Some(Kind::FdUse(v1::FdUse {
        pid,
        unit,
        comm: why502_gateway::redact::line(&stat.comm),
        started_us: stat.started_us,
        used: u32::try_from(used).unwrap_or(u32::MAX),
        limit,
    }))
}

/// A line of /proc/PID/limits: name, soft limit, hard limit, unit (proc(5)). "unlimited" is none.
fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Forks that the limit of the process's cgroup has refused. `None`: none were.
pub(super) fn forks_of(roots: &Roots, pid: u32) -> Option<Kind> {
    forks(roots, &proc_file::member(&roots.proc, pid).ok()?.path)
}

/// The same by the cgroup's path: pids.events, pids.max and pids.current (cgroups(7)).
pub(super) fn forks(roots: &Roots, path: &str) -> Option<Kind> {
    let below = path.trim_start_matches('/');
    let home = [V1_PIDS, V2]
        .into_iter()
        .map(|base| roots.sys.join(base).join(below))
        .find(|home| home.join("pids.events").exists())?;
    let read = |name: &str| std::fs::read_to_string(home.join(name)).ok();
    let count = field(&read("pids.events")?, "max").filter(|count| *count > 0)?;
    Some(Kind::ForkRejected(v1::ForkRejected {
        cgroup: path.to_owned(),
        unit: of_path(path).unit,
        limit: read("pids.max").and_then(|text| text.trim().parse().ok()),
        current: read("pids.current").and_then(|text| text.trim().parse().ok()).unwrap_or(0),
        count,
    }))
}

/// The CPU quota of a cgroup, and how often it held its processes back since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Throttle {
    /// CPU time for each 100 ms.
    pub(super) quota_us: u64,
    pub(super) periods: u64,
    pub(super) throttled: u64,
    pub(super) throttled_us: u64,
}

/// `None`: it has no quota.
pub(super) fn throttle(roots: &Roots, path: &str) -> Option<Throttle> {
    let below = path.trim_start_matches('/');
    let read = |base: &str, name: &str| {
        std::fs::read_to_string(roots.sys.join(base).join(below).join(name)).ok()
    };
    if let Some(max) = read(V2, "cpu.max") {
        let mut words = max.split_whitespace();
        let quota = words.next()?.parse().ok()?;
        let period = words.next()?.parse().ok()?;
        return throttled(&read(V2, "cpu.stat")?, quota, period);
    }
    V1_CPU.into_iter().find_map(|base| {
        let number = |name: &str| read(base, name)?.trim().parse::<u64>().ok();
        // -1 is no quota, and no number here.
        let quota = number("cpu.cfs_quota_us")?;
        throttled(&read(base, "cpu.stat")?, quota, number("cpu.cfs_period_us")?)
    })
}

fn throttled(stat: &str, quota: u64, period: u64) -> Option<Throttle> {
    let us = field(stat, "throttled_usec");
    // cgroup v1 counts nanoseconds.
    let us = us.or_else(|| field(stat, "throttled_time").map(|ns| ns / 1000));
    Some(Throttle {
        quota_us: quota.saturating_mul(100_000).checked_div(period)?,
        periods: field(stat, "nr_periods")?,
        throttled: field(stat, "nr_throttled")?,
        throttled_us: us.unwrap_or(0),
    })
}

/// "name 12"
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_counts() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max open files            1024                 524288               files     \n\
                    Max locked memory         unlimited            unlimited            bytes     \n";
        assert_eq!(soft_limit(text, "Max open files"), Some(1024));
        assert_eq!(soft_limit(text, "Max locked memory"), None);
    }

    #[test]
    fn quotas_of_both_hierarchies() {
        let v2 = "usage_usec 1\nnr_periods 20\nnr_throttled 15\nthrottled_usec 900\n";
        let found = throttled(v2, 10_000, 100_000).unwrap();
        assert_eq!((found.quota_us, found.periods, found.throttled_us), (10_000, 20, 900));
        let v1 = "nr_periods 20\nnr_throttled 15\nthrottled_time 900000\n";
        assert_eq!(throttled(v1, 20_000, 50_000).unwrap().throttled_us, 900);
        assert_eq!(throttled(v1, 20_000, 50_000).unwrap().quota_us, 40_000);
        assert_eq!(throttled("", 1, 1), None);
    }

    #[test]
    fn this_process_has_some_files_open() {
        let Some(Kind::FdUse(own)) = files(Path::new("/proc"), std::process::id()) else {
            panic!("no such process");
        };
        assert!(own.used > 2 && u64::from(own.used) < own.limit, "{own:?}");
        assert!(files(Path::new("/proc"), u32::MAX).is_none());
    }
}
