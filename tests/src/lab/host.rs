//! One host of a lab.

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// systemd is up in half a second on an idle machine; a loaded one may be fifty times slower.
const BOOT_MAX: Duration = Duration::from_secs(40);
/// How often a boot is asked whether it died.
const BOOT_LOOK: Duration = Duration::from_millis(500);

/// Why a host did not boot.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A file of the host's directory, or the start of its first process.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// It ended before it was up.
    #[error("did not boot: {said}")]
    Died {
        /// End of its boot log.
        said: String,
    },
    /// It took longer than any machine needs.
    #[error("did not boot within {} s: {said}", BOOT_MAX.as_secs())]
    Slow {
        /// End of its boot log.
        said: String,
    },
    /// The thread that booted it panicked.
    #[error("its boot panicked")]
    Panicked,
}

/// A host that is up.
#[derive(Debug)]
pub struct Host {
    name: String,
    address: Ipv4Addr,
    pid1: u32,
    root: PathBuf,
    outer: Child,
}

/// A network namespace that a thread may move into.
#[derive(Debug)]
pub struct Network(fs::File);

impl Network {
    /// Moves the calling thread, and what it starts from now on, into it.
    ///
    /// # Errors
    /// Without CAP_SYS_ADMIN.
    pub fn enter(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network))?)
    }
}

impl Host {
    pub(super) fn boot(
        lab: &str,
        lab_dir: &Path,
        name: &str,
        at: usize,
    ) -> Result<Self, HostError> {
        let io = |what| move |source| HostError::Io { what, source };
        let dir = lab_dir.join(name);
        fs::create_dir_all(dir.join("notify")).map_err(io("make the host's directory"))?;
        let ready =
            UnixDatagram::bind(dir.join("notify/ready")).map_err(io("bind the ready socket"))?;
        ready.set_read_timeout(Some(BOOT_LOOK)).map_err(io("set up the ready socket"))?;
        let log = fs::File::create(dir.join("boot.log")).map_err(io("make the boot log"))?;
        let last = u8::try_from(at).unwrap_or(u8::MAX);
        let address = Ipv4Addr::new(10, 98, 0, last);
        let mut outer = Command::new("bash")
            .args(["-c", include_str!("boot.sh")])
            .env("DIR", &dir)
            .env("NAME", name)
            .env("LAYER", lab_dir.join("layer"))
            .env("NETNS", format!("{lab}-{name}"))
            .env("SWITCH", format!("{lab}-switch"))
            .env("PORT", format!("p{at}"))
            .env("ADDR", address.to_string())
            .env("CGROUP", format!("{lab}-{name}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(io("open the boot log"))?)
            .stderr(log)
            // Ctrl-C is for the bench, which then takes the host down.
            .process_group(0)
            .spawn()
            .map_err(io("start bash"))?;
        wait_until_ready(&ready, &mut outer, &dir)?;
        let pid1 = fs::read_to_string(dir.join("pid1")).map_err(io("read pid1"))?;
        let pid1 = pid1.trim().parse().map_err(|_| HostError::Died { said: pid1 })?;
        Ok(Self { name: name.to_owned(), address, pid1, root: dir.join("root"), outer })
    }

    /// Its name, which resolves on all hosts of the lab.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on the bridge.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Its PID 1, as the machine sees it.
    pub fn pid1(&self) -> u32 {
        self.pid1
    }

    /// Its root, as the machine sees it. Files written here before a unit starts are there for the unit; what is
    /// below its own mounts (/run, /tmp, /dev) is not reached.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A command that runs inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .args(["-t", &self.pid1.to_string(), "-a", "--", program])
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .stdin(Stdio::null());
        command
    }

    /// Its network namespace.
    ///
    /// # Errors
    /// If the host is gone.
    pub fn network(&self) -> io::Result<Network> {
        Ok(Network(fs::File::open(format!("/proc/{}/ns/net", self.pid1))?))
    }

    /// Waits for the process that held the namespaces, once they were taken down.
    pub(super) fn reap(&mut self) {
        // It may be gone already; there is nothing else to do about it.
        let _ = self.outer.kill();
        let _ = self.outer.wait();
    }
}

/// systemd says READY=1 to its NOTIFY_SOCKET when its first transaction is done, see sd_notify(3).
fn wait_until_ready(ready: &UnixDatagram, outer: &mut Child, dir: &Path) -> Result<(), HostError> {
    let said = || fs::read_to_string(dir.join("boot.log")).unwrap_or_default().trim().to_owned();
    let begun = Instant::now();
    let mut message = [0; 4096];
    loop {
        if let Ok(length) = ready.recv(&mut message)
            && message[..length].split(|byte| *byte == b'\n').any(|line| line == b"READY=1")
        {
            return Ok(());
        }
        if !matches!(outer.try_wait(), Ok(None)) {
            return Err(HostError::Died { said: said() });
        }
        if begun.elapsed() > BOOT_MAX {
            return Err(HostError::Slow { said: said() });
        }
    }
}
