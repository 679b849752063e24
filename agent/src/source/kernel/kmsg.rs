//! Lines of the kernel log: the out-of-memory killer's and those of crashes (Documentation/ABI/testing/dev-kmsg,
//! mm/oom_kill.c, arch/x86/kernel/traps.c, arch/x86/mm/fault.c).

/// What a line of the kernel log says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::source) enum Line {
    /// `oom-kill:constraint=...`: whose limit, and whose process.
    OomChosen(Chosen),
    /// `Memory cgroup out of memory: Killed process ...`, `Out of memory: Killed process ...`.
    OomKilled { in_cgroup: bool, pid: u32, comm: String, anon_rss_kib: u64 },
    /// A segfault or a trap of a user process; `text` is what stands behind the process.
    Crashed { pid: u32, comm: String, signal: u32, text: String },
    /// `nf_conntrack: table full, dropping packet`; newer kernels name the network namespace, by its inode, where it is
    /// not the first.
    TableFull { netns: Option<u64> },
    /// `cgroup: fork rejected by pids controller in /path`, once for each cgroup.
    ForkRejected { cgroup: String },
}

/// The summary line of the out-of-memory killer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::source) struct Chosen {
    pub(in crate::source) pid: u32,
    /// The cgroup whose limit was met; empty for the whole host.
    pub(in crate::source) limit_cgroup: String,
    /// The victim's.
    pub(in crate::source) cgroup: String,
}

const SIGILL: u32 = 4;
const SIGTRAP: u32 = 5;
const SIGBUS: u32 = 7;
const SIGFPE: u32 = 8;
const SIGSEGV: u32 = 11;

/// The text of a record of /dev/kmsg. `None` where the record is not the kernel's own: any root process may write
/// to the log, under another facility.
pub(super) fn record(bytes: &[u8]) -> Option<String> {
    let semicolon = bytes.iter().position(|&b| b == b';')?;
    let head = std::str::from_utf8(bytes.get(..semicolon)?).ok()?;
    let priority: u32 = head.split(',').next()?.parse().ok()?;
    if priority >> 3 != 0 {
        return None;
    }
    let text = bytes.get(semicolon + 1..)?;
    let end = text.iter().position(|&b| b == b'\n').unwrap_or(text.len());
    Some(unescaped(text.get(..end)?))
}

/// The kernel writes bytes beyond printable ASCII as `\xNN`.
fn unescaped(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, after)) = rest.split_first() {
        let escaped = rest
            .strip_prefix(b"\\x")
            .and_then(|hex| std::str::from_utf8(hex.get(..2)?).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(escaped.unwrap_or(first));
        rest = if escaped.is_some() { rest.get(4..).unwrap_or_default() } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What a line says, if it is one of those that matter.
pub(in crate::source) fn parse(text: &str) -> Option<Line> {
    if let Some(fields) = text.strip_prefix("oom-kill:") {
        return chosen(fields).map(Line::OomChosen);
    }
    let in_cgroup = text.starts_with("Memory cgroup out of memory");
    if in_cgroup || text.starts_with("Out of memory") {
        return killed(text, in_cgroup);
    }
    if let Some(rest) = text.strip_prefix("nf_conntrack: ") {
        return table_full(rest.strip_prefix("nf_conntrack: ").unwrap_or(rest));
    }
    if let Some(path) = text.strip_prefix("cgroup: fork rejected by pids controller in ") {
        return Some(Line::ForkRejected { cgroup: path.trim().to_owned() });
    }
    match text.strip_prefix("traps: ") {
        Some(trap) => crashed(trap, trap_signal),
        None => crashed(text, |what| what.starts_with("segfault at ").then_some(SIGSEGV)),
    }
}

fn table_full(text: &str) -> Option<Line> {
    let rest = text.strip_prefix("table full")?;
    let netns = rest
        .trim_start()
        .strip_prefix("in netns ")
        .and_then(|rest| rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok());
    rest.ends_with("dropping packet").then_some(Line::TableFull { netns })
}

fn chosen(fields: &str) -> Option<Chosen> {
    let mut chosen = Chosen::default();
    for field in fields.split(',') {
        match field.split_once('=') {
            Some(("oom_memcg", path)) => path.clone_into(&mut chosen.limit_cgroup),
            Some(("task_memcg", path)) => path.clone_into(&mut chosen.cgroup),
            Some(("pid", pid)) => chosen.pid = pid.parse().ok()?,
            _ => {}
        }
    }
    (chosen.pid != 0).then_some(chosen)
}

fn killed(text: &str, in_cgroup: bool) -> Option<Line> {
    // "Killed process" since 4.20; "Kill process ... or sacrifice child" came before it and killed nothing yet.
    let (_, rest) = text.split_once(": Killed process ")?;
    let (pid, rest) = rest.split_once(" (")?;
    let (comm, rest) = rest.split_once(") total-vm:").or_else(|| rest.split_once("), UID "))?;
    let (_, rss) = rest.split_once("anon-rss:")?;
    let digits = rss.find(|c: char| !c.is_ascii_digit()).unwrap_or(rss.len());
    Some(Line::OomKilled {
        in_cgroup,
        pid: pid.parse().ok()?,
        comm: comm.to_owned(),
        anon_rss_kib: rss.get(..digits)?.parse().ok()?,
    })
}

/// `COMM[PID]: what` or `COMM[PID] what`. The name may hold anything, so the last bracket before the words counts.
fn crashed(text: &str, signal_of: impl Fn(&str) -> Option<u32>) -> Option<Line> {
    for (at, _) in text.match_indices('[') {
        let (comm, rest) = (text.get(..at)?, text.get(at + 1..)?);
        let Some((pid, what)) = rest.split_once(']') else { continue };
        let Ok(pid) = pid.parse() else { continue };
        let what = what.trim_start_matches(':').trim_start();
        if let Some(signal) = signal_of(what) {
            return Some(Line::Crashed {
                pid,
                comm: comm.to_owned(),
                signal,
                text: what.to_owned(),
            });
        }
    }
    None
}

/// The signal that the kernel sends for a trap.
fn trap_signal(what: &str) -> Option<u32> {
    let kinds = [
        ("general protection", SIGSEGV),
        ("trap invalid opcode", SIGILL),
        ("trap divide error", SIGFPE),
        ("trap stack segment", SIGBUS),
        ("trap int3", SIGTRAP),
        ("trap bounds", SIGSEGV),
        ("trap alignment check", SIGBUS),
    ];
    kinds.iter().find(|(words, _)| what.starts_with(words)).map(|(_, signal)| *signal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_the_kernel_and_of_others() {
        let text = record(b"3,1234,5678901,-,caller=T77;Out of memory\n SUBSYSTEM=x\n").unwrap();
        assert_eq!(text, "Out of memory");
        assert_eq!(record(b"6,1,2,-;caf\\xc3\\xa9").unwrap(), "caf\u{e9}");
        assert_eq!(record(b"12,1,2,-;spoken by a user"), None);
        for garbage in [&b""[..], b";", b"3,1", b"x,1,2,-;a", b"\xff,1;a"] {
            assert_eq!(record(garbage), None);
        }
    }

    #[test]
    fn oom_lines_of_6_18_and_6_1() {
        let line = "oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,\
            oom_memcg=/labx,task_memcg=/labx/app,task=python3,pid=31764,uid=0";
        let expected =
            Chosen { pid: 31764, limit_cgroup: "/labx".to_owned(), cgroup: "/labx/app".to_owned() };
        assert_eq!(parse(line), Some(Line::OomChosen(expected)));
        let line = "oom-kill:constraint=CONSTRAINT_NONE,nodemask=(null),cpuset=/,mems_allowed=0,\
            global_oom,task_memcg=/system.slice/api.service,task=api,pid=7,uid=33";
        let Some(Line::OomChosen(chosen)) = parse(line) else { panic!() };
        assert_eq!((chosen.limit_cgroup.as_str(), chosen.pid), ("", 7));
        let line = "Memory cgroup out of memory: Killed process 31764 (python3) total-vm:123456kB, \
            anon-rss:58112kB, file-rss:5120kB, shmem-rss:0kB, UID:0 pgtables:164kB oom_score_adj:0";
        let expected = Line::OomKilled {
            in_cgroup: true,
            pid: 31764,
            comm: "python3".to_owned(),
            anon_rss_kib: 58112,
        };
        assert_eq!(parse(line), Some(expected));
        let line = "Out of memory (oom_kill_allocating_task): Killed process 7 (a) (b) total-vm:1kB, \
            anon-rss:5kB, file-rss:0kB";
        let Some(Line::OomKilled { in_cgroup, comm, .. }) = parse(line) else { panic!() };
        assert_eq!((in_cgroup, comm.as_str()), (false, "a) (b"));
    }

    #[test]
    fn look_alikes_are_nothing() {
        for line in [
            "Out of memory: Kill process 7 (a) score 9 or sacrifice child",
            "python3 invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
            "oom_reaper: reaped process 7 (a), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB",
            "Memory cgroup out of memory: OOM victim 7 (a) is already exiting. Skip killing",
            "oom-kill:constraint=CONSTRAINT_MEMCG",
            "systemd[1]: segfaults are bad",
            "traps: [",
            "a[1",
            "",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn limits_that_were_reached() {
        let full = |netns| Some(Line::TableFull { netns });
        assert_eq!(parse("nf_conntrack: nf_conntrack: table full, dropping packet"), full(None));
        assert_eq!(parse("nf_conntrack: table full, dropping packet."), None);
        let named = "nf_conntrack: nf_conntrack: table full in netns 4026532177, dropping packet";
        assert_eq!(parse(named), full(Some(4_026_532_177)));
        assert_eq!(parse("nf_conntrack: default automatic helper assignment"), None);
        let line = "cgroup: fork rejected by pids controller in /system.slice/api.service";
        let cgroup = "/system.slice/api.service".to_owned();
        assert_eq!(parse(line), Some(Line::ForkRejected { cgroup }));
    }

    #[test]
    fn crashes() {
        let check = |line: &str, expected: (u32, &str, u32)| {
            let Some(Line::Crashed { pid, comm, signal, text }) = parse(line) else {
                panic!("{line}")
            };
            assert_eq!((pid, comm.as_str(), signal), expected);
            assert!(line.ends_with(&text), "{text}");
        };
        check(
            "app[4121]: segfault at 0 ip 000055 sp 00007ffe error 4 in app[5580+1000] likely on CPU 0",
            (4121, "app", 11),
        );
        check("we[ird[4121]: segfault at 8 ip 1 sp 2 error 6", (4121, "we[ird", 11));
        check(
            "traps: app[9] general protection fault ip:5 sp:7 error:0 in app[5+1]",
            (9, "app", 11),
        );
        check("traps: app[9] trap invalid opcode ip:5 sp:7 error:0 in app[5+1]", (9, "app", 4));
        check("traps: app[9] trap divide error ip:5 sp:7 error:0", (9, "app", 8));
    }
}
