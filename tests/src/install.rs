//! Agent and collector under test, on the hosts as their packages would put them there: packaged
//! units, their own users, configuration in /etc/why502, and certificates made for this one lab.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::certificates;
use crate::lab::{Host, Lab};
use crate::scenario::{COLLECTOR, SOURCES};
use crate::view;

const AGENT: &str = "why502-agent";
const SERVER: &str = "why502";
/// How long an agent that is connected may take to speak of all of them.
const SOURCES_WAIT: Duration = Duration::from_secs(5);
/// How often the collector is asked who is there.
const LOOK: Duration = Duration::from_millis(50);

/// Where the programs under test are.
#[derive(Clone, Debug)]
pub struct Build {
    /// Directory with `why502-agent` and `why502`.
    pub programs: PathBuf,
    /// `packaging/` of the repository.
    pub packaging: PathBuf,
}

/// Why agent or collector do not run.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A command on a host failed.
    #[error("{what} on {host}: {said}")]
    Command {
        /// Which.
        what: String,
        /// Where.
        host: String,
        /// What it said.
        said: String,
    },
    /// A file on a host.
    #[error("{what} on {host}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// Where.
        host: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The collector does not know an agent that runs.
    #[error("the agents of {hosts:?} did not reach the collector")]
    Unreached {
        /// Whose.
        hosts: Vec<String>,
    },
}

/// Puts programs and units on all hosts, and a certificate for each of `names`.
///
/// # Errors
/// If a file is missing or cannot be written.
pub fn dress(layer: &Path, build: &Build, names: &[&str]) -> io::Result<()> {
    let programs = layer.join("usr/bin");
    fs::create_dir_all(&programs)?;
    for program in [AGENT, SERVER] {
        copy(&build.programs.join(program), &programs.join(program))?;
    }
    let units = layer.join("etc/systemd/system");
    fs::create_dir_all(&units)?;
    let users = layer.join("usr/lib/sysusers.d");
    fs::create_dir_all(&users)?;
    for name in [AGENT, SERVER] {
        let unit = format!("{name}.service");
        copy(&build.packaging.join(&unit), &units.join(&unit))?;
        let packaged = build.packaging.join(format!("{name}.sysusers"));
        if packaged.exists() {
            copy(&packaged, &users.join(format!("{name}.conf")))?;
            continue;
        }
        for user in users_of(&fs::read_to_string(units.join(&unit))?) {
            fs::write(users.join(format!("{user}.conf")), format!("u {user} - \"{name}\"\n"))?;
        }
    }
    let settings = layer.join("etc/why502");
    fs::create_dir_all(&settings)?;
    let certificates = settings.join("tls");
    fs::create_dir_all(&certificates)?;
    certificates::make(&certificates, names)
}

/// Hosts are up for seconds: what debuggers need is left out, which makes the copy ten times smaller.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let say =
        |source: io::Error| io::Error::new(source.kind(), format!("{}: {source}", from.display()));
    if from.extension().is_some() {
        return fs::copy(from, to).map(drop).map_err(say);
    }
    let stripped = std::process::Command::new("strip").arg("-o").arg(to).arg(from).status();
    if !stripped.is_ok_and(|status| status.success()) {
        fs::copy(from, to).map_err(say)?;
    }
    fs::set_permissions(to, fs::Permissions::from_mode(0o755))
}

/// The users that a unit runs as, which its package makes.
fn users_of(unit: &str) -> BTreeSet<&str> {
    let dynamic = unit.lines().any(|line| line.trim() == "DynamicUser=yes");
    let users = unit.lines().filter_map(|line| line.trim().strip_prefix("User="));
    users.filter(|user| !dynamic && *user != "root" && !user.is_empty()).collect()
}

/// Starts the collector on its host, and agents on `agents`, with the sources of `blind` ("host:source") switched off;
/// waits until all agents have said what they see.
///
/// # Errors
/// If one of them does not start or is not known to the collector after `max`.
pub fn start(
    lab: &Lab,
    agents: &[String],
    blind: &[String],
    max: Duration,
) -> Result<(), InstallError> {
    let Some(collector) = lab.host(COLLECTOR) else {
        return Err(InstallError::Unreached { hosts: agents.to_vec() });
    };
    configure(collector, "collector.toml", &certificates::collector_toml(collector))?;
    start_unit(collector, SERVER)?;
    thread::scope(|scope| {
        let threads: Vec<_> = agents
            .iter()
            .filter_map(|name| lab.host(name))
            .map(|host| scope.spawn(move || start_agent(host, collector, blind)))
            .collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or(Ok(())))
    })?;
    wait_for_agents(collector, agents, max)
}

fn start_agent(host: &Host, collector: &Host, blind: &[String]) -> Result<(), InstallError> {
    configure(host, "agent.toml", &certificates::agent_toml(host, collector))?;
    let mut off = String::from("[Service]\n");
    for blind in blind {
        if let Some((name, source)) = blind.split_once(':')
            && name == host.name()
        {
            off.push_str(switch_off(source));
        }
    }
    let dropin = host.root().join("etc/systemd/system/why502-agent.service.d");
    let io = |source| InstallError::Io {
        what: "write the agent's drop-in",
        host: host.name().to_owned(),
        source,
    };
    fs::create_dir_all(&dropin).map_err(io)?;
    fs::write(dropin.join("blind.conf"), off).map_err(io)?;
    start_unit(host, AGENT)
}

/// What takes a source's sight away for real: the files and sockets that it reads are not there for the agent.
fn switch_off(source: &str) -> &'static str {
    match source {
        "journal" => "InaccessiblePaths=-/run/log/journal -/var/log/journal\n",
        "kernel_log" => "InaccessiblePaths=-/dev/kmsg\n",
        "unit" => "InaccessiblePaths=-/run/dbus/system_bus_socket -/run/systemd/private\n",
        "memory" => "InaccessiblePaths=-/sys/fs/cgroup -/proc/pressure\n",
        "gateway" => "InaccessiblePaths=-/etc/nginx -/var/log/nginx\n",
        "listener" => {
            "RestrictAddressFamilies=\nRestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX\n"
        }
        // Not all of it: what every user may see of a process stays visible.
        "process" => "CapabilityBoundingSet=\nAmbientCapabilities=\nProtectProc=invisible\n",
        _ => "",
    }
}

fn configure(host: &Host, file: &str, text: &str) -> Result<(), InstallError> {
    let dir = host.root().join("etc/why502");
    fs::create_dir_all(&dir).and_then(|()| fs::write(dir.join(file), text)).map_err(|source| {
        InstallError::Io { what: "write the configuration", host: host.name().to_owned(), source }
    })
}

fn start_unit(host: &Host, unit: &str) -> Result<(), InstallError> {
    let run = |program: &str, arguments: &[&str]| {
        let output = host.command(program).args(arguments).output();
        let output = output.map_err(|source| InstallError::Io {
            what: "run a command",
            host: host.name().to_owned(),
            source,
        })?;
        if output.status.success() {
            return Ok(());
        }
        let journal =
            host.command("journalctl").args(["-u", unit, "-n", "6", "-o", "cat"]).output();
        let mut said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " | ");
        if let Ok(journal) = journal {
            said.push_str(" || ");
            said.push_str(&String::from_utf8_lossy(&journal.stdout).trim().replace('\n', " | "));
        }
        let what = format!("{program} {}", arguments.join(" "));
        Err(InstallError::Command { what, host: host.name().to_owned(), said })
    };
    run("systemd-sysusers", &[])?;
    run("systemctl", &["daemon-reload"])?;
    run("systemctl", &["start", unit])
}

fn wait_for_agents(collector: &Host, agents: &[String], max: Duration) -> Result<(), InstallError> {
    let begun = Instant::now();
    let mut connected_since = None;
    loop {
        // An error means that it does not listen yet; the deadline is the judge of that.
        let known = view::hosts(collector).unwrap_or_default();
        let of = |name: &String| known.iter().find(|host| host.host == *name);
        let missing: Vec<_> = agents
            .iter()
            .filter(|name| of(name).is_none_or(|host| host.state != "connected"))
            .cloned()
            .collect();
        let silent = agents.iter().any(|name| {
            let sources = of(name).map_or(&[][..], |host| &host.sources);
            // Seeing or blind, each says so when it starts.
            SOURCES.iter().any(|name| sources.iter().all(|source| source.source != *name))
        });
        if missing.is_empty() {
            let since = *connected_since.get_or_insert_with(Instant::now);
            if !silent || since.elapsed() > SOURCES_WAIT {
                return Ok(());
            }
        } else if begun.elapsed() > max {
            return Err(InstallError::Unreached { hosts: missing });
        }
        thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_made_unless_systemd_makes_them() {
        assert_eq!(users_of("[Service]\nUser=why502\nGroup=x\n"), BTreeSet::from(["why502"]));
        assert!(users_of("User=why502\nDynamicUser=yes\n").is_empty());
        assert!(users_of("User=root\n").is_empty());
    }
}
