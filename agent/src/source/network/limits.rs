//! Limits of processes and of the host, read when something asks for it.

use std::path::Path;

use why502_proto::{Kind, v1};

use crate::source::kernel::proc_file;

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
    fn this_process_has_some_files_open() {
        let Some(Kind::FdUse(own)) = files(Path::new("/proc"), std::process::id()) else {
            panic!("no such process");
        };
        assert!(own.used > 2 && u64::from(own.used) < own.limit, "{own:?}");
        assert!(files(Path::new("/proc"), u32::MAX).is_none());
    }
}
