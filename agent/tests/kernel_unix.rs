//! Declared unix socket paths, as the kernel source sees them change on this machine.

#![expect(clippy::unwrap_used, reason = "a test ends where something it needs is missing")]

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use why502_agent::observe::{Observations, channel};
use why502_agent::source::kernel::start;
use why502_agent::source::{Interest, Roots, UnixClient};
use why502_proto::v1::{AcceptQueue, UnixPathState, UnixSocketPath};
use why502_proto::{Kind, fields_text, kind_name};

const WAIT: Duration = Duration::from_secs(8);

#[track_caller]
fn until<T>(facts: &mut Observations, what: &str, pick: impl Fn(&Kind) -> Option<T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let deadline = Instant::now() + WAIT;
    let mut seen = String::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let next = runtime.block_on(async { tokio::time::timeout(left, facts.next()).await });
        let Ok(observed) = next else { panic!("no {what} among:\n{seen}") };
        let Some(kind) = observed.unwrap().kind else { continue };
        seen.push_str(&format!("{} {}\n", kind_name(&kind), fields_text(&kind)));
        if let Some(picked) = pick(&kind) {
            return picked;
        }
    }
}

#[track_caller]
fn next_state(facts: &mut Observations, path: &Path) -> UnixSocketPath {
    let address = format!("unix:{}", path.display());
    until(facts, "path", |kind| match kind {
        Kind::UnixSocketPath(fact) if fact.address == address => Some(fact.clone()),
        _ => None,
    })
}

#[test]
fn a_path_goes_through_its_states() {
    let directory = tempfile::Builder::new().prefix("why502-kernel-").tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = directory.path().join("app.sock");
    let (observer, mut facts) = channel();
    let handle = start(Roots::default(), observer).unwrap();
    let client = UnixClient { path: path.clone(), user: Some((4711, vec![4711])) };
    handle.tell(Interest::UnixPaths(vec![client]));
    assert_eq!(next_state(&mut facts, &path).state(), UnixPathState::Missing);

    let listener = UnixListener::bind(&path).unwrap();
    let alive = next_state(&mut facts, &path);
    assert_eq!(alive.state(), UnixPathState::Alive);

    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let denied = next_state(&mut facts, &path);
    assert_eq!(denied.denied_at, path.display().to_string());
    assert_eq!((denied.state(), denied.denied_mode), (UnixPathState::Alive, 0o600));

    drop(listener);
    assert_eq!(next_state(&mut facts, &path).state(), UnixPathState::Stale);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(next_state(&mut facts, &path).state(), UnixPathState::Missing);
    std::fs::write(&path, "").unwrap();
    assert_eq!(next_state(&mut facts, &path).state(), UnixPathState::NotASocket);
}

#[test]
fn a_queue_that_nobody_empties_is_said_to_be_full() {
    let directory = tempfile::Builder::new().prefix("why502-kernel-").tempdir().unwrap();
    let path = directory.path().join("queue.sock");
    let (observer, mut facts) = channel();
    let _handle = start(Roots::default(), observer).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    // Rust asks for 128 or -1; a second listen(2) sets what the test needs.
    rustix::net::listen(&listener, 1).unwrap();
    let first = UnixStream::connect(&path).unwrap();
    let second = UnixStream::connect(&path).unwrap();
    let address = format!("unix:{}", path.display());
    let queue = |facts: &mut Observations, full: bool| -> AcceptQueue {
        until(facts, "queue", |kind| match kind {
            Kind::AcceptQueue(q) if q.address == address && q.full == full => Some(q.clone()),
            _ => None,
        })
    };
    let full = queue(&mut facts, true);
    assert_eq!((full.depth, full.limit, full.pid), (2, 1, std::process::id()));
    let accepted = (listener.accept().unwrap(), listener.accept().unwrap());
    let empty = queue(&mut facts, false);
    assert!(empty.depth < 2, "{}", empty.depth);
    drop((first, second, accepted));
}
