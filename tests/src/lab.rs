//! Throw-away Linux hosts on one machine: each a real systemd as PID 1 with journald, D-Bus, its own namespaces and
//! cgroups, above an overlay of the machine's root. All hosts of a lab hang on one bridge, and nothing of it ever
//! touches the machine's first network namespace.
//!
//! Several labs may run at once: whatever a lab makes carries its name, which holds the pid of its maker. It is taken
//! down when it is dropped, on SIGINT and SIGTERM, and at the next start of any lab if its maker was killed.
//!
//! Works with cgroup v2 and with v1 (hybrid), see cgroups(7) and <https://systemd.io/CONTAINER_INTERFACE/>.

mod host;
mod sweep;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

pub use host::{Host, HostError, Network};
pub use sweep::{stop_on_signals, sweep, take_down};

/// Where labs live: one directory each, a tmpfs.
const BASE: &str = "/run/why502-tests";

/// Addresses are 10.98.0.1 upwards in the order of the hosts. One lab does not see another's.
const NETWORK: &str = "10.98.0.";

/// More would not fit the addresses' last byte, and no scenario comes near.
const HOSTS_MAX: usize = 200;

/// Labs that this process has up, for the signal handler.
static UP: Mutex<Vec<String>> = Mutex::new(Vec::new());
static NEXT: AtomicU32 = AtomicU32::new(1);

/// Why a lab could not be made.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Namespaces, mounts and cgroups need root.
    #[error("test hosts need root")]
    NotRoot,
    /// Too many hosts.
    #[error("{count} hosts are more than a lab takes")]
    TooMany {
        /// How many were asked for.
        count: usize,
    },
    /// A step of the set-up failed.
    #[error("{step}: {said}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// What it said.
        said: String,
    },
    /// A file of the lab.
    #[error("{}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A host did not boot.
    #[error("host {host}")]
    Host {
        /// Its name.
        host: String,
        /// Why.
        source: HostError,
    },
}

/// A set of hosts on one bridge.
#[derive(Debug)]
pub struct Lab {
    name: String,
    dir: PathBuf,
    hosts: Vec<Host>,
    keep: bool,
}

impl Lab {
    /// Boots `names`, all at once. `dress` is given the root of a layer that all hosts share, before they boot: what
    /// it writes there is on every host.
    ///
    /// # Errors
    /// If a host did not boot; what was begun is taken down.
    pub fn boot(
        names: &[&str],
        dress: impl FnOnce(&Path) -> Result<(), io::Error>,
    ) -> Result<Self, LabError> {
        if !rustix::process::getuid().is_root() {
            return Err(LabError::NotRoot);
        }
        if names.len() > HOSTS_MAX {
            return Err(LabError::TooMany { count: names.len() });
        }
        let mut lab = Self::prepare(names, dress)?;
        let booted: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> = names
                .iter()
                .enumerate()
                .map(|(at, name)| {
                    let lab = &lab;
                    scope.spawn(move || Host::boot(&lab.name, &lab.dir, name, at + 1))
                })
                .collect();
            threads.into_iter().zip(names).map(|(thread, name)| (name, thread.join())).collect()
        });
        for (name, result) in booted {
            let host = result.unwrap_or(Err(HostError::Panicked));
            let host =
                host.map_err(|source| LabError::Host { host: (*name).to_owned(), source })?;
            lab.hosts.push(host);
        }
        Ok(lab)
    }

    fn prepare(
        names: &[&str],
        dress: impl FnOnce(&Path) -> Result<(), io::Error>,
    ) -> Result<Self, LabError> {
        let name = format!("w502-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = Path::new(BASE).join(&name);
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| LabError::Io { path, source }
        };
        fs::create_dir_all(&dir).map_err(io(&dir))?;
        if let Ok(mut up) = UP.lock() {
            up.push(name.clone());
        }
        // From here on dropping it cleans up.
        let lab = Self { name, dir, hosts: Vec::new(), keep: false };
        let dir = lab.dir.as_path();
        step("mount a tmpfs", Command::new("mount").args(["-t", "tmpfs", "tmpfs"]).arg(dir))?;
        let mut hosts_file = String::from("127.0.0.1 localhost\n::1 localhost ip6-localhost\n");
        for (at, name) in names.iter().enumerate() {
            hosts_file.push_str(&format!("{NETWORK}{} {name}\n", at + 1));
        }
        let layer = dir.join("layer");
        step(
            "make the hosts' common layer",
            Command::new("bash")
                .args(["-c", include_str!("lab/layer.sh")])
                .env("DIR", dir)
                .env("LAYER", &layer)
                .env("HOSTS_FILE", hosts_file),
        )?;
        dress(&layer).map_err(io(&layer))?;
        let switch = format!("{}-switch", lab.name);
        step("make the bridge's namespace", Command::new("ip").args(["netns", "add", &switch]))?;
        step(
            "make the bridge",
            Command::new("ip").args(["-n", &switch, "link", "add", "br0", "type", "bridge"]),
        )?;
        step(
            "start the bridge",
            Command::new("ip").args(["-n", &switch, "link", "set", "br0", "up"]),
        )?;
        let enter = dir.join("exec");
        let script = include_str!("lab/exec.sh").replace("@DIR@", &dir.to_string_lossy());
        fs::write(&enter, script).map_err(io(&enter))?;
        step("make HOST_EXEC", Command::new("chmod").arg("755").arg(&enter))?;
        Ok(lab)
    }

    /// All hosts, in the order of their addresses.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The host of that name.
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|host| host.name() == name)
    }

    /// Takes a host off the bridge, or puts it back: what was on its way is lost, and neither side is told. Its own
    /// link stays up, as behind a switch that fails.
    ///
    /// # Errors
    /// If there is no such host.
    pub fn plug(&self, host: &str, plugged: bool) -> Result<(), LabError> {
        let at = self.hosts.iter().position(|other| other.name() == host);
        let port = format!("p{}", at.map_or(0, |at| at + 1));
        let switch = format!("{}-switch", self.name);
        let mut command = Command::new("ip");
        command.args(["-n", &switch, "link", "set", &port]);
        command.args(if plugged { &["master", "br0"][..] } else { &["nomaster"] });
        step("plug or unplug a host", &mut command)
    }

    /// Its name, for `--remove`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// An executable: `exec HOST COMMAND...` runs a command inside, with standard input and exit status.
    pub fn exec_path(&self) -> PathBuf {
        self.dir.join("exec")
    }

    /// A directory on the machine that goes with the lab.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Leaves the hosts up after this process.
    pub fn keep(&mut self) {
        self.keep = true;
        // Only a mark for `sweep`; if it cannot be written the hosts go with the next start.
        let _ = fs::write(self.dir.join("keep"), "");
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.keep {
            take_down(&self.name);
            for host in &mut self.hosts {
                host.reap();
            }
        }
        if let Ok(mut up) = UP.lock() {
            up.retain(|name| *name != self.name);
        }
    }
}

/// Runs one command of the set-up; what it says is the error.
fn step(step: &'static str, command: &mut Command) -> Result<(), LabError> {
    let output =
        command.output().map_err(|error| LabError::Step { step, said: error.to_string() })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(LabError::Step { step, said })
}
