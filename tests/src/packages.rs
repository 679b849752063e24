//! The Debian packages that scenarios ask for: one apt call for all of them, before any host boots.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// Asked by invoke-rc.d and deb-systemd-invoke: a package for the hosts shall not start a service on the machine.
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs what is missing of `wanted` and returns what could not be got.
pub fn install(wanted: &BTreeSet<String>) -> BTreeSet<String> {
    let missing = missing(wanted);
    if missing.is_empty() {
        return missing;
    }
    if !missing.iter().all(|package| is_known(package)) {
        apt(&["update"]);
    }
    let known: Vec<_> = missing.iter().filter(|package| is_known(package)).collect();
    if known.is_empty() {
        return missing;
    }
    let quiet = KeepQuiet::begin();
    let mut arguments = vec!["install", "--yes", "--no-install-recommends"];
    arguments.extend(known.into_iter().map(String::as_str));
    apt(&arguments);
    drop(quiet);
    self::missing(wanted)
}

fn missing(wanted: &BTreeSet<String>) -> BTreeSet<String> {
    wanted.iter().filter(|package| !is_installed(package)).cloned().collect()
}

fn is_installed(package: &str) -> bool {
    let output =
        Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]).output();
    output.is_ok_and(|output| output.status.success() && output.stdout == b"installed")
}

fn is_known(package: &str) -> bool {
    let output = Command::new("apt-cache").args(["policy", package]).output();
    output.is_ok_and(|output| {
        String::from_utf8_lossy(&output.stdout)
            .lines()
            .any(|line| line.trim().starts_with("Candidate:") && !line.contains("(none)"))
    })
}

/// What it cannot do is seen by what is still missing afterwards.
fn apt(arguments: &[&str]) {
    let _ = Command::new("apt-get")
        .args(["-q", "-o", "DPkg::Lock::Timeout=300"])
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(io::stderr())
        .status();
}

/// While it lives no package starts a service, unless the machine has a policy of its own.
struct KeepQuiet {
    made: bool,
}

impl KeepQuiet {
    fn begin() -> Self {
        let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o755).open(POLICY);
        let made = file.is_ok_and(|mut file| {
            io::Write::write_all(&mut file, b"#!/bin/sh\nexit 101\n").is_ok()
        });
        Self { made }
    }
}

impl Drop for KeepQuiet {
    fn drop(&mut self) {
        if self.made {
            let _ = fs::remove_file(Path::new(POLICY));
        }
    }
}
