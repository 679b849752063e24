//! The few files below /proc that the kernel source reads, see proc(5).

use std::io;
use std::path::Path;

use rustix::fs::{Mode, OFlags, open};

use crate::source::cgroup::{Membership, membership};

/// `USER_HZ`: fixed at 100 on every architecture that Rust's Linux targets have.
const TICK_US: u64 = 10_000;
/// The files read here are below 4 KiB; /proc/PID/cgroup of deep hierarchies may be more.
const FILE_BYTES_MAX: usize = 16 << 10;
/// 20,000 lines of /proc/net/tcp.
const LONG_BYTES_MAX: usize = 3 << 20;

/// What /proc/PID/stat tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::source) struct Stat {
    pub(in crate::source) comm: String,
    /// `R`, `S`, `D`, `T`, `t`, `Z`, ...
    pub(super) state: u8,
    pub(super) ppid: u32,
    /// User and system time.
    pub(super) cpu_ticks: u64,
    pub(super) threads: u32,
    /// Boot time of the start.
    pub(in crate::source) started_us: u64,
    /// As wait(2) gives it; 0 also where the reader may not know.
    pub(super) exit_code: u32,
}

/// Reads the text of /proc/PID/stat. The name may hold blanks and parentheses, so it ends at the last one.
pub(super) fn parse_stat(text: &[u8]) -> Option<Stat> {
    let open = text.iter().position(|&b| b == b'(')?;
    let close = text.iter().rposition(|&b| b == b')')?;
    let comm = String::from_utf8_lossy(text.get(open + 1..close)?).into_owned();
    let rest = std::str::from_utf8(text.get(close + 1..)?).ok()?;
    // Field 3, the state, is number 0 here.
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok());
    Some(Stat {
        comm,
        state: *fields.first()?.as_bytes().first()?,
        ppid: u32::try_from(number(1)?).ok()?,
        cpu_ticks: number(11)?.saturating_add(number(12)?),
        threads: u32::try_from(number(17)?).ok()?,
        started_us: number(19)?.saturating_mul(TICK_US),
        exit_code: number(49).and_then(|code| u32::try_from(code).ok()).unwrap_or(0),
    })
}

/// The tick that a boot time lies in, as /proc/PID/stat would show it.
pub(super) fn tick_us(boottime_us: u64) -> u64 {
    boottime_us / TICK_US * TICK_US
}

/// Reads a small file of /proc, bounded.
pub(super) fn read(path: &Path) -> io::Result<Vec<u8>> {
    read_bounded(path, FILE_BYTES_MAX)
}

/// Reads a file of /proc that has a line for each socket. A longer one is an error: a part of it would look like
/// sockets that were closed.
pub(super) fn read_long(path: &Path) -> io::Result<Vec<u8>> {
    let text = read_bounded(path, LONG_BYTES_MAX)?;
    if text.len() == LONG_BYTES_MAX {
        return Err(io::Error::from(io::ErrorKind::FileTooLarge));
    }
    Ok(text)
}

fn read_bounded(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let fd = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut buffer = vec![0; 2048];
    let mut length = 0;
    loop {
        let count = rustix::io::read(&fd, &mut buffer[length..])?;
        length += count;
        if count == 0 || length == bytes_max {
            buffer.truncate(length);
            return Ok(buffer);
        }
        if length == buffer.len() {
            buffer.resize(bytes_max.min(buffer.len() * 2), 0);
        }
    }
}

/// /proc/PID/stat of a process that is there.
pub(in crate::source) fn stat(proc: &Path, pid: u32) -> io::Result<Stat> {
    let text = read(&proc.join(format!("{pid}/stat")))?;
    parse_stat(&text).ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Unit and container of a process that is there.
pub(in crate::source) fn member(proc: &Path, pid: u32) -> io::Result<Membership> {
    let text = read(&proc.join(format!("{pid}/cgroup")))?;
    Ok(membership(&String::from_utf8_lossy(&text)))
}

/// All pids of the host, ascending.
pub(super) fn pids(proc: &Path) -> io::Result<Vec<u32>> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir(proc)? {
        pids.extend(entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()));
    }
    pids.sort_unstable();
    Ok(pids)
}

/// Whether this number belongs to a thread of a process with another one: /proc does not list it, and yet has it.
pub(super) fn is_thread(proc: &Path, pid: u32) -> bool {
    let Ok(text) = read(&proc.join(pid.to_string()).join("status")) else { return false };
    let text = String::from_utf8_lossy(&text);
    let leader = text.lines().find_map(|line| line.strip_prefix("Tgid:"));
    leader.is_some_and(|leader| leader.trim() != pid.to_string())
}

/// The pid that was given out last, from /proc/loadavg. It stays the same while nothing was started, and costs
/// 5 us.
pub(super) fn last_pid(proc: &Path) -> Option<u32> {
    let text = read(&proc.join("loadavg")).ok()?;
    std::str::from_utf8(&text).ok()?.split_ascii_whitespace().last()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_of_several_kernels() {
        // 6.1, with a name made to confuse.
        let text = b"4121 (a) S (b) R 1 4121 4121 0 -1 4194560 1 2 3 4 50 7 0 0 20 0 3 0 6012345 \
            10 20 18446744073709551615 1 2 3 4 5 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 9\n";
        let stat = parse_stat(text).unwrap();
        assert_eq!((stat.comm.as_str(), stat.state, stat.ppid), ("a) S (b", b'R', 1));
        assert_eq!((stat.cpu_ticks, stat.threads), (57, 3));
        assert_eq!((stat.started_us, stat.exit_code), (60_123_450_000, 9));
        // Kernels before 3.5 have no exit code.
        let old = b"1 (init) S 0 1 1 0 -1 4194560 1 2 3 4 5 6 0 0 20 0 1 0 4 10 20 184 1 2 3 4\n";
        assert_eq!(parse_stat(old).unwrap().exit_code, 0);
        for garbage in [&b""[..], b"1 (", b"1 (x) S", b"1 )(", b"\xff\xfe(\xff) Z 1"] {
            assert_eq!(parse_stat(garbage), None);
        }
    }

    #[test]
    fn this_process_is_seen() {
        let proc = Path::new("/proc");
        let own = std::process::id();
        assert!(pids(proc).unwrap().contains(&own));
        assert!(stat(proc, own).unwrap().started_us > 0);
        assert!(last_pid(proc).unwrap() > 0);
        assert!(stat(proc, u32::MAX).is_err());
        assert!(!is_thread(proc, own));
        let thread = std::thread::spawn(|| rustix::thread::gettid().as_raw_nonzero().get());
        let thread = u32::try_from(thread.join().unwrap()).unwrap();
        // It is gone by now, or /proc still has it: never is it a process.
        assert!(stat(proc, thread).is_err() || is_thread(proc, thread));
    }
}
