//! Memory cgroups and the out-of-memory killer, on this machine's kernel.

#![expect(clippy::unwrap_used, reason = "a test ends where something it needs is missing")]

use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use why502_agent::observe::channel;
use why502_agent::source::Roots;
use why502_agent::source::kernel::start;
use why502_proto::{Kind, fields_text, kind_name, v1};

const WAIT: Duration = Duration::from_secs(10);
const LIMIT: u64 = 64 << 20;

/// A cgroup of this test, in whichever hierarchy has the memory controller.
struct Cgroup(PathBuf);

impl Cgroup {
    fn make() -> std::io::Result<Self> {
        let name = format!("why502-kernel-test-{}", std::process::id());
        let v1 = PathBuf::from("/sys/fs/cgroup/memory");
        let (parent, limit) = if v1.is_dir() {
            (v1, "memory.limit_in_bytes")
        } else {
            (PathBuf::from("/sys/fs/cgroup"), "memory.max")
        };
        let cgroup = Self(parent.join(name));
        std::fs::create_dir(&cgroup.0)?;
        std::fs::write(cgroup.0.join(limit), LIMIT.to_string())?;
        Ok(cgroup)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // The kernel lets go of the dead process a moment after its parent has.
        let deadline = Instant::now() + WAIT;
        while std::fs::remove_dir(&self.0).is_err() && Instant::now() < deadline {
            std::thread::yield_now();
        }
    }
}

/// A server in `cgroup` that allocates when it is told to.
fn server(cgroup: &Cgroup) -> Child {
    let program = "\
import socket, sys
open(sys.argv[1] + '/cgroup.procs', 'w').write('0')
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen(1)
print('ready', flush=True)
sys.stdin.readline()
held = []
while True:
    held.append(b'x' * (1 << 20))
";
    let mut child = Command::new("python3")
        .args(["-c", program])
        .arg(&cgroup.0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    child
}

#[test]
fn an_oom_kill_is_told_by_the_counter_and_by_the_log() {
    let cgroup = match Cgroup::make() {
        Ok(cgroup) => cgroup,
        Err(error) => {
            eprintln!("this machine does not let the test make a memory cgroup: {error}");
            return;
        }
    };
    let mut child = server(&cgroup);
    let (observer, mut facts) = channel();
    let _handle = start(Roots::default(), observer).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let mut seen = Vec::new();
    let mut told = false;
    let (mut counted, mut logged, mut blind) = (None, None, false);
    let name = cgroup.0.file_name().unwrap().to_str().unwrap().to_owned();
    let deadline = Instant::now() + WAIT;
    while counted.is_none() || (logged.is_none() && !blind) {
        let left = deadline.saturating_duration_since(Instant::now());
        let next = runtime.block_on(async { tokio::time::timeout(left, facts.next()).await });
        let Ok(observed) = next else { break };
        let Some(kind) = observed.unwrap().kind else { continue };
        seen.push(format!("{} {}\n", kind_name(&kind), fields_text(&kind)));
        match kind {
            Kind::OomKill(kill) if kill.cgroup.ends_with(&name) => {
                if kill.witness() == v1::Witness::Cgroup {
                    counted = Some(kill);
                } else {
                    logged = Some(kill);
                }
            }
            Kind::SourceBlinded(b) if b.source() == v1::Source::KernelLog => blind = true,
            Kind::SourceSeeing(s)
                if s.source() == v1::Source::Listener && s.scope.is_empty() && !told =>
            {
                told = true;
                writeln!(child.stdin.as_mut().unwrap()).unwrap();
            }
            _ => {}
        }
    }
    let seen = seen.concat();
    let own = |line: &&str| line.contains(&name) || line.contains(&format!("pid={} ", child.id()));
    eprintln!("{}", seen.lines().filter(own).collect::<Vec<_>>().join("\n"));
    child.wait().unwrap();
    let counted = counted.unwrap_or_else(|| panic!("no counter among:\n{seen}"));
    assert_eq!(counted.count, 1);
    assert_eq!(counted.scope(), v1::OomScope::Cgroup);
    assert_eq!(counted.limit_bytes, Some(LIMIT));
    if let Some(logged) = logged {
        assert_eq!(logged.pid, child.id());
        assert_eq!(logged.limit_bytes, Some(LIMIT));
        assert!(logged.anon_rss_kib > 1024, "{}", logged.anon_rss_kib);
    } else {
        assert!(blind, "neither a line nor a reason among:\n{seen}");
    }
}
