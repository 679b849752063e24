//! Processes that are gateways, as /proc tells it: proc_pid_cmdline(5), proc_pid_status(5), proc_pid_environ(5).
//!
//! A name is anybody's to choose, so a program is only executed (for its version) if it belongs to root and nobody else
//! may write to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use why502_gateway::kind::{KINDS, Kind};
use why502_gateway::nginx;

use super::super::cgroup;

/// A pid whose name was looked at this often will not become a gateway any more: between fork and exec there may be a
/// moment under another name.
const LOOKS: u8 = 2;
/// Bytes of a command line or an environment that are looked at.
const TEXT_MAX: usize = 64 << 10;
/// How long a program may take to tell its version.
const ASK_MAX: Duration = Duration::from_secs(5);

/// A gateway's first process: the one that reads its configuration.
#[derive(Clone, Debug)]
pub struct Leader {
    /// Its kind.
    pub kind: &'static Kind,
    /// Its pid.
    pub pid: u32,
    /// Its unit, by its cgroup.
    pub unit: String,
    /// Its words.
    pub argv: Vec<String>,
}

/// Processes that run now.
pub fn pids(proc: &Path) -> BTreeSet<u32> {
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Finds certain processes, at the cost of those that are new since the last look.
#[derive(Debug, Default)]
pub struct Finder {
    others: BTreeMap<u32, u8>,
}

impl Finder {
    /// What `look` makes of those of `pids` that it knows.
    pub fn find<T>(&mut self, pids: &BTreeSet<u32>, look: impl Fn(u32) -> Option<T>) -> Vec<T> {
        self.others.retain(|pid, _| pids.contains(pid));
        let mut found = Vec::new();
        for pid in pids {
            let looks = self.others.get(pid).copied().unwrap_or(0);
            if looks >= LOOKS {
                continue;
            }
            match look(*pid) {
                Some(known) => found.push(known),
                None => drop(self.others.insert(*pid, looks + 1)),
            }
        }
        found
    }
}

fn kind_of(proc: &Path, pid: u32) -> Option<&'static Kind> {
    let name = text(proc, pid, "comm")?;
    KINDS.iter().find(|kind| kind.programs.contains(&name.trim_end()))
}

/// The name and the container of a gateway that runs in one, whose files and network are others than this host's.
pub fn contained(proc: &Path, pid: u32) -> Option<String> {
    let name = match kind_of(proc, pid) {
        Some(kind) => kind.name,
        None if text(proc, pid, "comm")?.trim_end() == nginx::NAME => nginx::NAME,
        None => return None,
    };
    let container = cgroup::membership(&text(proc, pid, "cgroup")?).container;
    let short = container.get(..12).unwrap_or(&container);
    (!container.is_empty()).then(|| format!("{name} in container {short}"))
}

/// The leader with this pid, if it is one.
pub fn leader(proc: &Path, pid: u32) -> Option<Leader> {
    let kind = kind_of(proc, pid)?;
    let membership = cgroup::membership(&text(proc, pid, "cgroup")?);
    let status = text(proc, pid, "status")?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    // In another pid namespace: a container's, whose files are elsewhere too.
    let inner = field("NSpid:").is_some_and(|ids| ids.split_whitespace().count() > 1);
    if !membership.container.is_empty() || inner {
        return None;
    }
    let parent = field("PPid:").and_then(|pid| pid.trim().parse().ok())?;
    if kind_of(proc, parent).is_some_and(|of| of.name == kind.name) {
        return None;
    }
    let argv = text(proc, pid, "cmdline")?;
    let argv = argv.split_terminator('\0').map(str::to_owned).collect::<Vec<_>>();
    // A zombie, or one that has not become its program yet.
    (!argv.is_empty()).then_some(Leader { kind, pid, unit: membership.unit, argv })
}

fn text(proc: &Path, pid: u32, name: &str) -> Option<String> {
    let bytes = fs::read(proc.join(pid.to_string()).join(name)).ok()?;
    Some(String::from_utf8_lossy(&bytes[..bytes.len().min(TEXT_MAX)]).into_owned())
}

/// Children with the leader's own program: they take requests.
pub fn workers(proc: &Path, leader: &Leader) -> BTreeSet<u32> {
    let children = text(proc, leader.pid, &format!("task/{0}/children", leader.pid));
    let children = children.unwrap_or_default();
    let pids = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    pids.filter(|pid| kind_of(proc, *pid).is_some_and(|of| of.name == leader.kind.name)).collect()
}

/// Its environment; empty where it may not be read, or is not there.
pub fn environment(proc: &Path, pid: u32) -> BTreeMap<String, String> {
    let environ = text(proc, pid, "environ").unwrap_or_default();
    let pairs = environ.split('\0').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The version that the program of `leader` tells, "" where it cannot be asked.
pub async fn version(proc: &Path, leader: &Leader) -> String {
    let running = proc.join(leader.pid.to_string()).join("exe");
    let named = leader.argv.first().map(PathBuf::from);
    for program in [Some(running), named].into_iter().flatten() {
        if program.is_absolute() && belongs_to_root(&program) {
            let said = said(&program, leader.kind.version_args).await.unwrap_or_default();
            if let Some(version) = (leader.kind.version)(&said) {
                return version;
            }
        }
    }
    String::new()
}

/// Whether only root may have put it there.
pub fn belongs_to_root(program: &Path) -> bool {
    fs::metadata(program).is_ok_and(|metadata| {
        metadata.is_file() && metadata.uid() == 0 && metadata.mode() & 0o022 == 0
    })
}

/// What a program prints on both its outputs, in time.
pub async fn said(program: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = tokio::process::Command::new(program);
    command.args(arguments).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(ASK_MAX, command.output()).await.ok()?.ok()?;
    let both = [output.stdout, output.stderr].concat();
    Some(String::from_utf8_lossy(&both).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(proc: &Path, pid: u32, name: &str, cgroup: &str) {
        let path = proc.join(pid.to_string());
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("comm"), format!("{name}\n")).unwrap();
        fs::write(path.join("cgroup"), format!("0::{cgroup}\n")).unwrap();
    }

    #[test]
    fn a_gateway_in_a_container_is_named_and_not_read() {
        let proc = tempfile::tempdir().unwrap();
        let id = "0123456789ab".repeat(6)[..64].to_owned();
        process(proc.path(), 7, "nginx", &format!("/system.slice/docker-{id}.scope"));
        process(proc.path(), 8, "nginx", "/system.slice/nginx.service");
        process(proc.path(), 9, "bash", &format!("/system.slice/docker-{id}.scope"));
        let named = |pid| contained(proc.path(), pid);
        assert_eq!(named(7).as_deref(), Some("nginx in container 0123456789ab"));
        assert_eq!((named(8), named(9), named(10)), (None, None, None));
    }
}
