//! What the kernel tells: processes, listeners, memory, the kernel log and the host's addresses.
//!
//! One thread waits for all of the kernel's notices at once and holds everything known in its own hands, so that from
//! a pid to its unit to its listeners is one look into a map. Events come first; bounded polls are the net below.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, eventfd};
use rustix::fd::OwnedFd;
use why502_proto::v1::Source;

use crate::observe::Observer;
use crate::source::{Interest, Roots};
use inbox::Inbox;

mod connector;
mod exit;
mod facts;
mod inbox;
pub(super) mod kmsg;
mod listener;
mod memory;
mod memory_file;
mod net_text;

mod owner;
mod pidfds;
pub(super) mod proc_file;
mod process;
mod quota;
mod stall;
mod thread_state;
mod unix_path;
mod watch_host;
mod watch_kmsg;
mod watch_limits;
mod watch_listener;
mod watch_memory;
mod watch_namespace;
mod watch_pressure;
mod watch_process;
mod watch_scan;
mod watch_stall;
mod watch_unix_path;

/// Before the thread begins anew after a fault of its own: doubled each time, up to the longest.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// A thread that ran for this long begins with the shortest pause again.
const SOUND_AFTER: Duration = Duration::from_secs(600);
/// What this thread speaks for.
const SOURCES: [Source; 5] =
    [Source::Process, Source::Listener, Source::Memory, Source::KernelLog, Source::Host];

/// Speaks to the kernel source. The thread ends with the last handle.
#[derive(Clone, Debug)]
pub struct KernelHandle {
    last: Arc<Last>,
}

/// Dropped with the last handle.
#[derive(Debug)]
struct Last {
    shared: Arc<Shared>,
}

/// What handles and thread share.
#[derive(Debug)]
struct Shared {
    inbox: Mutex<Inbox>,
    closed: AtomicBool,
    wake: OwnedFd,
}

/// Begins to look. Returns once the thread runs; what it sees, and what it cannot see, it tells `observer`.
pub fn start(roots: Roots, observer: Observer) -> io::Result<KernelHandle> {
    let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let shared = Arc::new(Shared { inbox: Mutex::default(), closed: AtomicBool::new(false), wake });
    let for_thread = Arc::clone(&shared);
    thread::Builder::new()
        .name("why502-kernel".to_owned())
        .spawn(move || keep_running(&roots, &observer, &for_thread))?;
    Ok(KernelHandle { last: Arc::new(Last { shared }) })
}

impl KernelHandle {
    /// Says what to look at. Never waits.
    pub fn tell(&self, interest: Interest) {
        let shared = &self.last.shared;
        shared.inbox().put(interest);
        shared.wake();
    }
}

impl Drop for Last {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.wake();
    }
}

impl Shared {
    fn wake(&self) {
        // The counter is full only when the thread was woken already.
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    fn take_inbox(&self) -> Vec<Interest> {
        let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
        self.inbox().take()
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

/// Runs until the last handle is gone. A fault in this source is said, and the source begins anew: the others go on.
fn keep_running(roots: &Roots, observer: &Observer, shared: &Shared) {
    let mut pause = PAUSE_MIN;
    loop {
        let begun = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| thread_state::run(roots, observer, shared)));
        if shared.is_closed() {
            return;
        }
        let reason = match result {
            Ok(Ok(())) => return,
            Ok(Err(error)) => format!("the kernel source stopped: {error}"),
            Err(_) => "the kernel source stopped by a fault of its own".to_owned(),
        };
        for source in SOURCES {
            observer.blinded(source, "", &reason, "report this with the agent's log");
        }
        if begun.elapsed() > SOUND_AFTER {
            pause = PAUSE_MIN;
        }
        thread::sleep(pause);
        pause = (pause * 2).min(PAUSE_MAX);
        shared.inbox().begin_anew();
        shared.wake();
    }
}
