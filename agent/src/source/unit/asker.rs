//! Who asked systemd for a job: the `systemctl` that waits for it is still there when the job appears, and names the
//! unit. What was asked through D-Bus by other programs, or with `--no-block`, leaves no such trace.
//!
//! Read from proc(5): comm, cmdline, status and loginuid of processes; never their environment.

use std::fs;
use std::path::Path;

/// Programs that ask systemd for jobs and wait for them.
const ASKERS: &[&str] =
    &["systemctl", "service", "invoke-rc.d", "deb-systemd-inv", "busctl", "systemd-run", "pkcon"];

/// Programs that only carry another's wish: they are no answer to "who".
const CARRIERS: &[&str] =
    &["bash", "dash", "sh", "zsh", "fish", "ksh", "busybox", "env", "nsenter", "timeout"];

/// What may be said of a command line beside the name of the unit.
const VERBS: &[&str] = &[
    "--no-block",
    "--now",
    "condrestart",
    "disable",
    "enable",
    "force-reload",
    "kill",
    "mask",
    "reload",
    "reload-or-restart",
    "reset-failed",
    "restart",
    "start",
    "stop",
    "try-reload-or-restart",
    "try-restart",
];

/// How far up the chain of parents is looked: deployments nest, but not endlessly.
const ANCESTORS_MAX: usize = 12;

/// How many processes are looked through for one job; a host with more names no asker.
const PROCESSES_MAX: usize = 32_768;

/// Longest command line that is read.
const CMDLINE_MAX: usize = 4096;

/// loginuid of processes that no login began, see pam_loginuid(8).
const NO_LOGIN: u32 = u32::MAX;

/// Looks for the process that asked for a job on `unit`: "systemctl stop api (pid 812, user root, from sudo by
/// alice)".
pub(super) fn find(proc: &Path, root: &Path, unit: &str) -> Option<String> {
    let mut candidates: Vec<u32> = fs::read_dir(proc)
        .ok()?
        .take(PROCESSES_MAX)
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| comm(proc, *pid).is_some_and(|comm| ASKERS.contains(&comm.as_str())))
        .collect();
    // The youngest is the one that asked last; `service` and `invoke-rc.d` end in a systemctl of their own.
    candidates.sort_unstable();
    candidates.into_iter().rev().find_map(|pid| describe(proc, root, pid, unit))
}

fn describe(proc: &Path, root: &Path, pid: u32, unit: &str) -> Option<String> {
    let arguments = arguments(proc, pid)?;
    if !arguments.iter().skip(1).any(|argument| names(argument, unit)) {
        return None;
    }
    let program = arguments.first()?.rsplit('/').next().unwrap_or_default().to_owned();
    // Only words that are known to be harmless leave the host.
    let harmless = |argument: &&String| VERBS.contains(&argument.as_str()) || names(argument, unit);
    let mut command = program;
    for argument in arguments.iter().skip(1).filter(harmless) {
        command.push(' ');
        command.push_str(argument);
    }
    let (uid, mut parent) = status(proc, pid)?;
    let user = user_name(root, uid);
    let mut from = None;
    let mut child_uid = uid;
    let mut login = None;
    for _ in 0..ANCESTORS_MAX {
        if parent <= 1 {
            break;
        }
        let Some(name) = comm(proc, parent) else { break };
        let Some((parent_uid, grandparent)) = status(proc, parent) else { break };
        if login.is_none() && parent_uid != child_uid {
            login = Some(parent_uid);
        }
        if from.is_none() && !CARRIERS.contains(&name.as_str()) && !ASKERS.contains(&name.as_str())
        {
            from = Some(name);
        }
        (child_uid, parent) = (parent_uid, grandparent);
    }
    let login = login_uid(proc, pid).filter(|login| *login != uid).or(login);
    let mut by = format!("{command} (pid {pid}, user {user}");
    if let Some(from) = from {
        by.push_str(&format!(", from {from}"));
    }
    if let Some(login) = login {
        by.push_str(&format!(" by {}", user_name(root, login)));
    }
    by.push(')');
    Some(by)
}

/// Whether an argument names the unit, with or without its ".service", by glob only if the glob is a plain prefix.
fn names(argument: &str, unit: &str) -> bool {
    let short = unit.strip_suffix(".service").unwrap_or(unit);
    let argument = argument.strip_prefix("--unit=").unwrap_or(argument);
    let stem = argument.strip_suffix(".service").unwrap_or(argument);
    stem == short || stem.strip_suffix('*').is_some_and(|s| !s.is_empty() && short.starts_with(s))
}

fn comm(proc: &Path, pid: u32) -> Option<String> {
    Some(fs::read_to_string(proc.join(format!("{pid}/comm"))).ok()?.trim_end().to_owned())
}

fn arguments(proc: &Path, pid: u32) -> Option<Vec<String>> {
    let mut bytes = fs::read(proc.join(format!("{pid}/cmdline"))).ok()?;
    bytes.truncate(CMDLINE_MAX);
    let text = String::from_utf8_lossy(&bytes);
    let arguments: Vec<String> =
        text.trim_end_matches('\0').split('\0').map(str::to_owned).collect();
    (!arguments.is_empty()).then_some(arguments)
}

/// Real user and parent.
fn status(proc: &Path, pid: u32) -> Option<(u32, u32)> {
    let text = fs::read_to_string(proc.join(format!("{pid}/status"))).ok()?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse::<u32>().ok()
    };
    Some((field("Uid:")?, field("PPid:")?))
}

fn login_uid(proc: &Path, pid: u32) -> Option<u32> {
    let text = fs::read_to_string(proc.join(format!("{pid}/loginuid"))).ok()?;
    text.trim().parse().ok().filter(|uid| *uid != NO_LOGIN)
}

/// Name of a user by passwd(5); its number where it has none there.
fn user_name(root: &Path, uid: u32) -> String {
    let passwd = fs::read_to_string(root.join("etc/passwd")).unwrap_or_default();
    let found = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| uid.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A /proc with one process per entry: pid, parent, uid, comm, command line.
    fn host(processes: &[(u32, u32, u32, &str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("etc")).unwrap();
        let passwd = "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n";
        fs::write(root.path().join("etc/passwd"), passwd).unwrap();
        for (pid, parent, uid, comm, command) in processes {
            let dir = root.path().join(format!("proc/{pid}"));
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("comm"), format!("{comm}\n")).unwrap();
            fs::write(dir.join("cmdline"), command.replace(' ', "\0") + "\0").unwrap();
            let status = format!("Name:\t{comm}\nPPid:\t{parent}\nUid:\t{uid}\t0\t0\t0\n");
            fs::write(dir.join("status"), status).unwrap();
            fs::write(dir.join("loginuid"), "4294967295").unwrap();
        }
        root
    }

    #[track_caller]
    fn check(processes: &[(u32, u32, u32, &str, &str)], unit: &str, expect: Option<&str>) {
        let host = host(processes);
        let found = find(&host.path().join("proc"), host.path(), unit);
        assert_eq!(found.as_deref(), expect);
    }

    #[test]
    fn a_person_behind_sudo_is_named() {
        check(
            &[
                (700, 1, 0, "sshd", "sshd"),
                (710, 700, 1000, "bash", "-bash"),
                (800, 710, 1000, "sudo", "sudo systemctl stop api"),
                (812, 800, 0, "systemctl", "/usr/bin/systemctl stop api"),
            ],
            "api.service",
            Some("systemctl stop api (pid 812, user root, from sudo by alice)"),
        );
    }

    #[test]
    fn a_deploy_tool_is_named_through_its_shell() {
        check(
            &[
                (40, 1, 0, "deployd", "deployd"),
                (50, 40, 0, "sh", "sh -c systemctl restart api.service"),
                (51, 50, 0, "systemctl", "systemctl restart --host=root:pw@x api.service"),
            ],
            "api.service",
            Some("systemctl restart api.service (pid 51, user root, from deployd)"),
        );
    }

    #[test]
    fn a_systemctl_for_another_unit_is_not_it() {
        check(&[(51, 1, 0, "systemctl", "systemctl restart db")], "api.service", None);
        check(&[(51, 1, 0, "vi", "vi api.service")], "api.service", None);
        check(&[(51, 1, 0, "systemctl", "systemctl stop api-worker")], "api.service", None);
    }
}
