//! Processes and listeners as the kernel source sees them on this machine.

#![expect(clippy::unwrap_used, reason = "a test ends where something it needs is missing")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use why502_agent::observe::{Observations, channel};
use why502_agent::source::Roots;
use why502_agent::source::kernel::{KernelHandle, start};
use why502_proto::{Kind, fields_text, kind_name, v1};

/// Longest wait for a fact that must come.
const WAIT: Duration = Duration::from_secs(20);

/// A running source and what it says.
struct Watch {
    facts: Observations,
    handle: KernelHandle,
    seen: Vec<Kind>,
}

impl Watch {
    fn begin() -> Self {
        let (observer, facts) = channel();
        let handle = start(Roots::default(), observer).unwrap();
        let mut watch = Self { facts, handle, seen: Vec::new() };
        watch.until("seeing", |kind| match kind {
            Kind::SourceSeeing(seeing) if seeing.scope.is_empty() => {
                (seeing.source() == v1::Source::Listener).then_some(())
            }
            _ => None,
        });
        watch
    }

    /// The first fact that `pick` takes, of those that came already or will.
    #[track_caller]
    fn until<T>(&mut self, what: &str, pick: impl Fn(&Kind) -> Option<T>) -> T {
        if let Some(picked) = self.seen.iter().find_map(&pick) {
            return picked;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let deadline = std::time::Instant::now() + WAIT;
        while let Some(left) = deadline.checked_duration_since(std::time::Instant::now()) {
            let next =
                runtime.block_on(async { tokio::time::timeout(left, self.facts.next()).await });
            let Ok(observed) = next else { break };
            let Some(kind) = observed.unwrap().kind else { continue };
            let picked = pick(&kind);
            self.seen.push(kind);
            if let Some(picked) = picked {
                return picked;
            }
        }
        panic!("no {what} among:\n{}", self.text());
    }

    fn text(&self) -> String {
        let line = |kind: &Kind| format!("{} {}\n", kind_name(kind), fields_text(kind));
        self.seen.iter().map(line).collect()
    }

    fn has_connector(&self) -> bool {
        self.seen.iter().any(|kind| matches!(kind, Kind::SourceSeeing(s) if s.scope == "connector"))
    }

    fn exit_of(&mut self, pid: u32) -> v1::ProcessExited {
        self.until("exit", |kind| match kind {
            Kind::ProcessExited(exited) if exited.pid == pid => Some(exited.clone()),
            _ => None,
        })
    }

    /// The listener as it is held by `pid`.
    fn opened(&mut self, port: u16, pid: u32) -> v1::ListenerOpened {
        let address = format!("127.0.0.1:{port}");
        self.until("opened", |kind| match kind {
            Kind::ListenerOpened(opened) if opened.address == address && opened.pid == pid => {
                Some(opened.clone())
            }
            _ => None,
        })
    }

    fn closed(&mut self, port: u16) -> v1::ListenerClosed {
        let address = format!("127.0.0.1:{port}");
        self.until("closed", |kind| match kind {
            Kind::ListenerClosed(closed) if closed.address == address => Some(closed.clone()),
            _ => None,
        })
    }
}

/// A server that does what it is told on its standard input, one line of Python each.
struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn begin() -> Self {
        let program = "\
import os, socket, sys, time, signal
listener = socket.socket()
listener.bind(('127.0.0.1', 0))
listener.listen(1)
print(listener.getsockname()[1], flush=True)
for line in sys.stdin:
    exec(line)
    print('done', flush=True)
";
        let mut child = Command::new("python3")
            .args(["-c", program])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        Self { child, port: line.trim().parse().unwrap() }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.child.stdin.as_mut().unwrap(), "{line}").unwrap();
    }

    fn kill(&mut self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_killed_server_leaves_its_signal_and_its_listener() {
    let mut server = Server::begin();
    let mut watch = Watch::begin();
    let (pid, port) = (server.child.id(), server.port);
    let address = format!("127.0.0.1:{port}");
    let existing = |kind: &Kind| matches!(kind, Kind::ListenerOpened(o) if o.address == address && o.existing && o.pid == pid);
    assert!(watch.seen.iter().any(existing), "{}", watch.text());
    server.kill(Signal::KILL);
    let exited = watch.exit_of(pid);
    assert_eq!((exited.signal, exited.status, exited.core), (Some(9), None, false));
    assert_eq!(exited.listeners, [address]);
    assert_eq!(exited.comm, "python3");
    let expected = if watch.has_connector() { v1::Witness::Connector } else { v1::Witness::Pidfd };
    assert_eq!(exited.witness(), expected);
    let closed = watch.closed(port);
    assert_eq!((closed.pid, closed.last), (pid, true));
}

#[test]
fn a_listener_opens_and_closes_under_a_living_owner() {
    let mut watch = Watch::begin();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    assert!(!watch.opened(port, std::process::id()).existing);
    drop(listener);
    let closed = watch.closed(port);
    assert_eq!((closed.pid, closed.last), (std::process::id(), true));
}

#[test]
fn a_worker_of_50_ms_leaves_its_record() {
    let mut server = Server::begin();
    let mut watch = Watch::begin();
    if !watch.has_connector() {
        eprintln!("the process connector does not speak here:\n{}", watch.text());
        return;
    }
    server.tell("(os.fork() or (time.sleep(0.05), os._exit(7)))");
    let parent = server.child.id();
    let pid = watch.until("start", |kind| match kind {
        Kind::ProcessStarted(started) if started.ppid == parent => Some(started.pid),
        _ => None,
    });
    let exited = watch.exit_of(pid);
    assert_eq!((exited.status, exited.signal), (Some(7), None));
    let lifetime = exited.lifetime_ms.unwrap();
    assert!((40..1000).contains(&lifetime), "{lifetime}");
    assert_eq!(exited.listeners, [format!("127.0.0.1:{}", server.port)]);
}

#[test]
fn the_listener_outlives_its_first_owner() {
    let mut server = Server::begin();
    let mut watch = Watch::begin();
    server.tell("(os.fork() or time.sleep(60))");
    let (parent, port) = (server.child.id(), server.port);
    let child = watch.until("start", |kind| match kind {
        Kind::ProcessStarted(started) if started.ppid == parent => Some(started.pid),
        _ => None,
    });
    server.kill(Signal::KILL);
    watch.exit_of(parent);
    watch.opened(port, child);
    kill_process(Pid::from_raw(i32::try_from(child).unwrap()).unwrap(), Signal::KILL).unwrap();
    watch.exit_of(child);
    assert_eq!(watch.closed(port).pid, child);
}

#[test]
fn the_thread_ends_with_the_last_handle() {
    let watch = Watch::begin();
    let Watch { mut facts, handle, .. } = watch;
    let second = handle.clone();
    drop(handle);
    drop(second);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let end =
        async { tokio::time::timeout(WAIT, async { while facts.next().await.is_some() {} }).await };
    runtime.block_on(end).expect("the observer is dropped");
}

#[test]
fn a_stopped_server_is_said_within_seconds_and_its_end_too() {
    let mut server = Server::begin();
    let mut watch = Watch::begin();
    let (pid, port) = (server.child.id(), server.port);
    server.kill(Signal::STOP);
    let stalled = watch.until("stall", |kind| match kind {
        Kind::ProcessStalled(stalled) if stalled.pid == pid => Some(stalled.clone()),
        _ => None,
    });
    assert_eq!(stalled.kind(), v1::StallKind::Stopped);
    assert_eq!(stalled.listeners, [format!("127.0.0.1:{port}")]);
    assert!(stalled.main);
    server.kill(Signal::CONT);
    watch.until("resume", |kind| match kind {
        Kind::ProcessResumed(resumed) if resumed.pid == pid => Some(()),
        _ => None,
    });
}

#[test]
fn a_full_tcp_queue_refuses_connections() {
    let server = Server::begin();
    let mut watch = Watch::begin();
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], server.port));
    // listen(1) takes two; the third one is dropped until it gives up.
    let first = std::net::TcpStream::connect(address).unwrap();
    let second = std::net::TcpStream::connect(address).unwrap();
    let third = std::net::TcpStream::connect_timeout(&address, Duration::from_millis(100));
    assert!(third.is_err());
    let address = address.to_string();
    let queue = watch.until("full queue", |kind| match kind {
        Kind::AcceptQueue(queue) if queue.address == address && queue.full => Some(queue.clone()),
        _ => None,
    });
    assert_eq!((queue.depth, queue.limit, queue.pid), (2, 1, server.child.id()));
    let overflow = watch.until("overflow", |kind| match kind {
        Kind::AcceptOverflow(overflow) => Some(overflow.clone()),
        _ => None,
    });
    assert!(overflow.overflows >= 1);
    assert!(overflow.addresses.contains(&address), "{:?}", overflow.addresses);
    drop((first, second));
}

#[test]
fn the_hosts_addresses_are_said() {
    let watch = Watch::begin();
    let is_loopback = |kind: &Kind| matches!(kind, Kind::HostAddress(a) if a.address == "127.0.0.1" && a.interface == "lo");
    assert!(watch.seen.iter().any(is_loopback), "{}", watch.text());
}

/// F10: a death in the middle of a fork storm is said, and so is what the storm made the source leave out.
#[test]
fn a_fork_storm_beside_a_death_loses_nothing_that_matters() {
    const FORKS: usize = 1500;
    let mut server = Server::begin();
    let mut watch = Watch::begin();
    let pid = server.child.id();
    server.tell(&format!(
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN); \
         [os.fork() or os._exit(0) for _ in range({FORKS})]; os.kill(os.getpid(), 9)"
    ));
    assert_eq!(watch.exit_of(pid).signal, Some(9));
    let is_start = |kind: &&Kind| matches!(kind, Kind::ProcessStarted(s) if s.ppid == pid);
    let started = watch.seen.iter().filter(is_start).count();
    let gap = |kind: &Kind| match kind {
        Kind::SourceBlinded(b) if b.scope == "short-lived" || b.scope == "connector" => Some(()),
        _ => None,
    };
    if started < FORKS {
        watch.until("word of what was left out", gap);
    }
}

/// A namespace of its own, and a server in it that this machine's systemd hierarchy calls a unit.
#[test]
fn a_unit_with_a_network_of_its_own_is_seen() {
    let cgroup = std::path::Path::new("/sys/fs/cgroup/systemd");
    let name = format!("why502-kernel-test-{}.service", std::process::id());
    let cgroup = cgroup.join(&name);
    if let Err(error) = std::fs::create_dir(&cgroup) {
        eprintln!("this machine does not let the test make a cgroup: {error}");
        return;
    }
    let program = "\
import os, socket, sys
open(sys.argv[1] + '/cgroup.procs', 'w').write('0')
listener = socket.socket()
listener.bind(('0.0.0.0', 8899))
listener.listen(7)
print('ready', flush=True)
sys.stdin.readline()
";
    let mut child = Command::new("unshare")
        .args(["--net", "python3", "-c", program])
        .arg(&cgroup)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    if line != "ready\n" {
        let _ = std::fs::remove_dir(&cgroup);
        panic!("unshare(1) does not work here");
    }
    let mut watch = Watch::begin();
    let opened = watch.until("opened", |kind| match kind {
        Kind::ListenerOpened(o) if o.address == "0.0.0.0:8899" && o.netns != 0 => Some(o.clone()),
        _ => None,
    });
    child.kill().unwrap();
    child.wait().unwrap();
    let closed = watch.until("closed", |kind| match kind {
        Kind::ListenerClosed(c) if c.address == "0.0.0.0:8899" && c.netns != 0 => Some(c.clone()),
        _ => None,
    });
    std::fs::remove_dir(&cgroup).unwrap();
    assert_eq!((opened.pid, opened.unit.as_str()), (child.id(), name.as_str()));
    assert_eq!((opened.existing, opened.queue_limit), (true, 7));
    assert_eq!((closed.netns, closed.pid, closed.last), (opened.netns, child.id(), true));
}
