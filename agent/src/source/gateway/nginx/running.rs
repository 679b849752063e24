//! Which nginx run on this host, as /proc tells it: proc_pid_cmdline(5), proc_pid_status(5).
//!
//! nginx writes its role into its command line ("nginx: master process /usr/sbin/nginx -c x"). The command line is
//! anybody's to choose, so a program is only executed (`-V`) if it belongs to root and nobody else may write to it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use why502_gateway::nginx::Options;
use why502_gateway::nginx::version::Build;

use super::super::super::cgroup;
use super::super::process;

/// A command line longer than this is not looked at further.
const TITLE_MAX: usize = 4096;

/// A master process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Master {
    /// Its pid.
    pub pid: u32,
    /// Its unit, by its cgroup.
    pub unit: String,
    /// First word of its command line: the program.
    pub program: String,
    /// Where its files are.
    pub options: Options,
}

fn read(proc: &Path, pid: u32, name: &str) -> Option<String> {
    let bytes = fs::read(proc.join(pid.to_string()).join(name)).ok()?;
    let bytes = &bytes[..bytes.len().min(TITLE_MAX)];
    Some(String::from_utf8_lossy(bytes).into_owned())
}

/// The master with this pid, if it is one.
pub fn master(proc: &Path, pid: u32) -> Option<Master> {
    if !read(proc, pid, "comm")?.starts_with("nginx") {
        return None;
    }
    let title = read(proc, pid, "cmdline")?;
    let title = title.replace('\0', " ");
    let mut master = parse_title(title.trim_end().strip_prefix("nginx: master process ")?);
    let membership = cgroup::membership(&read(proc, pid, "cgroup")?);
    // In another pid namespace: a container's, whose files are elsewhere too.
    let status = read(proc, pid, "status")?;
    let inner = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    if !membership.container.is_empty()
        || inner.is_some_and(|ids| ids.split_whitespace().count() > 1)
    {
        return None;
    }
    (master.pid, master.unit) = (pid, membership.unit);
    Some(master)
}

/// Reads "/usr/sbin/nginx -c /etc/x.conf -g daemon off; master_process on;".
fn parse_title(title: &str) -> Master {
    let mut words = title.split_whitespace().peekable();
    let mut master = Master { program: words.next().unwrap_or("").to_owned(), ..Master::default() };
    while let Some(word) = words.next() {
        let (option, attached) = word.split_at(word.len().min(2));
        let mut value = || {
            let own = (!attached.is_empty()).then(|| attached.to_owned());
            own.or_else(|| words.next().map(str::to_owned))
        };
        match option {
            "-c" => master.options.conf = value(),
            "-p" => master.options.prefix = value(),
            "-e" => master.options.error_log = value(),
            "-g" => {
                let mut directives = attached.to_owned();
                while words.peek().is_some_and(|next| !next.starts_with('-')) {
                    directives.push(' ');
                    directives.push_str(words.next().unwrap_or(""));
                }
                master.options.directives = directives.trim().to_owned();
            }
            _ => {}
        }
    }
    master
}

/// Workers of a master.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Workers {
    /// They take requests.
    pub active: BTreeSet<u32>,
    /// They finish what they have, with the configuration of before.
    pub leaving: BTreeSet<u32>,
}

/// Looks at the children of a master.
pub fn workers(proc: &Path, master: u32) -> Workers {
    let children = read(proc, master, &format!("task/{master}/children")).unwrap_or_default();
    let mut workers = Workers::default();
    for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
        let title = read(proc, pid, "cmdline").unwrap_or_default();
        match title.trim_end_matches(['\0', ' ']) {
            "nginx: worker process" => drop(workers.active.insert(pid)),
            "nginx: worker process is shutting down" => drop(workers.leaving.insert(pid)),
            _ => {}
        }
    }
    workers
}

/// Effective user and all groups of a process.
pub fn user(proc: &Path, pid: u32) -> Option<(u32, Vec<u32>)> {
    let status = read(proc, pid, "status")?;
    let numbers = |name: &str| -> Vec<u32> {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("");
        line.split_whitespace().filter_map(|word| word.parse().ok()).collect()
    };
    let uid = *numbers("Uid:").get(1)?;
    let mut groups: Vec<u32> = numbers("Gid:").get(1).copied().into_iter().collect();
    groups.extend(numbers("Groups:"));
    groups.sort_unstable();
    groups.dedup();
    Some((uid, groups))
}

/// Directory that relative options of the command line are relative to.
pub fn working_directory(proc: &Path, pid: u32) -> Option<PathBuf> {
    fs::read_link(proc.join(pid.to_string()).join("cwd")).ok()
}

/// Asks the program of `master` (or, without one, the usual one) what was compiled into it.
pub async fn build(proc: &Path, master: Option<&Master>) -> Build {
    let mut programs = Vec::new();
    if let Some(master) = master {
        programs.push(proc.join(master.pid.to_string()).join("exe"));
        programs.push(PathBuf::from(&master.program));
    }
    programs.push(PathBuf::from("/usr/sbin/nginx"));
    for program in programs {
        if program.is_absolute()
            && process::belongs_to_root(&program)
            && let Some(said) = process::said(&program, &["-V"]).await
            && let Some(build) = Build::parse(&said)
        {
            return build;
        }
    }
    Build::default()
}

#[cfg(test)]
mod tests {
    use super::super::super::process::{Finder, pids};
    use super::*;

    #[test]
    fn titles() {
        let plain = parse_title("/usr/sbin/nginx -g daemon on; master_process on;");
        assert_eq!(plain.program, "/usr/sbin/nginx");
        assert_eq!(plain.options.directives, "daemon on; master_process on;");
        let own = parse_title("nginx -p /tmp/x -c nginx.conf -g daemon off; -e stderr");
        assert_eq!(own.options.conf.as_deref(), Some("nginx.conf"));
        assert_eq!(own.options.prefix.as_deref(), Some("/tmp/x"));
        assert_eq!(own.options.error_log.as_deref(), Some("stderr"));
        assert_eq!(parse_title("").program, "");
        assert_eq!(
            parse_title("nginx -c/etc/a.conf é -").options.conf.as_deref(),
            Some("/etc/a.conf")
        );
    }

    fn process(proc: &Path, pid: u32, files: &[(&str, &str)]) {
        for (name, text) in files {
            let path = proc.join(pid.to_string()).join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn master_workers_and_their_user() {
        let proc = tempfile::tempdir().unwrap();
        let title = "nginx: master process /usr/sbin/nginx -g daemon on;\0\0";
        let cgroup = ("cgroup", "0::/system.slice/nginx.service\n");
        let status = "Uid:\t0\t33\t33\t33\nGid:\t33\t33\t33\t33\nNSpid:\t10\nGroups:\t33 4 \n";
        process(
            proc.path(),
            10,
            &[
                ("comm", "nginx\n"),
                ("cmdline", title),
                cgroup,
                ("task/10/children", "11 12 13 "),
                ("status", status),
            ],
        );
        process(
            proc.path(),
            11,
            &[("comm", "nginx\n"), ("cmdline", "nginx: worker process\0"), ("status", status)],
        );
        process(
            proc.path(),
            12,
            &[("comm", "nginx\n"), ("cmdline", "nginx: worker process is shutting down")],
        );
        process(
            proc.path(),
            13,
            &[("comm", "nginx\n"), ("cmdline", "nginx: cache manager process")],
        );
        process(proc.path(), 14, &[("comm", "bash\n"), ("cmdline", "nginx: master process x")]);
        process(
            proc.path(),
            15,
            &[("comm", "nginx\n"), ("cmdline", title), cgroup, ("status", "NSpid:\t15\t1\n")],
        );
        let mut finder = Finder::default();
        for _ in 0..4 {
            let found = finder.find(&pids(proc.path()), |pid| master(proc.path(), pid));
            assert_eq!(found.iter().map(|master| master.pid).collect::<Vec<_>>(), [10]);
            assert_eq!(found[0].unit, "nginx.service");
        }
        let (active, leaving) = (BTreeSet::from([11]), BTreeSet::from([12]));
        assert_eq!(workers(proc.path(), 10), Workers { active, leaving });
        assert_eq!(user(proc.path(), 11), Some((33, vec![4, 33])));
        assert_eq!(workers(proc.path(), 99), Workers::default());
    }
}
