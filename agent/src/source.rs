//! What the agent reads. Each source is a pure parser and differ, and a thin shell that reads; a source that cannot
//! see says `source_blinded`, and `source_seeing` once all that is true now has been said.

use std::path::PathBuf;

pub mod cgroup;
pub mod gateway;
pub mod journal;
pub mod kernel;
mod limits;
mod netlink;
pub mod network;
mod sock_diag;
pub mod unit;

/// Where the host's files are. Tests point them elsewhere; nothing outside of `source/` names /proc.
#[derive(Clone, Debug)]
pub struct Roots {
    /// `/proc`
    pub proc: PathBuf,
    /// `/sys`
    pub sys: PathBuf,
    /// `/dev`
    pub dev: PathBuf,
    /// `/`, for configuration files and socket paths.
    pub root: PathBuf,
}

impl Default for Roots {
    fn default() -> Self {
        Self { proc: "/proc".into(), sys: "/sys".into(), dev: "/dev".into(), root: "/".into() }
    }
}

/// What one source tells the [`kernel`] source to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interest {
    /// From the gateway source: all unix socket paths that any gateway declares now, and who connects.
    UnixPaths(Vec<UnixClient>),
    /// From the unit source: main process of a unit; 0 when it has none.
    MainPid {
        /// Name of the unit.
        unit: String,
        /// Its main process.
        pid: u32,
    },
}

/// Who connects to a unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixClient {
    /// Path of the socket, without `unix:`.
    pub path: PathBuf,
    /// Effective user of the process that connects, and its groups. `None`: not known.
    pub user: Option<(u32, Vec<u32>)>,
}

/// This boot of this host; a fixed word where the kernel does not tell.
pub fn boot_id(roots: &Roots) -> String {
    std::fs::read_to_string(roots.proc.join("sys/kernel/random/boot_id"))
        .map_or_else(|_| "unknown-boot".to_owned(), |text| text.trim().to_owned())
}

/// PRETTY_NAME of os-release(5), "" if there is none.
pub fn distribution(roots: &Roots) -> String {
    let text = std::fs::read_to_string(roots.root.join("etc/os-release")).unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map(|name| name.trim_matches('"').to_owned()).unwrap_or_default()
}
