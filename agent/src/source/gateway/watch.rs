//! Wakes the reader of logs when one of them was written to: inotify(7) on a thread of its own.
//!
//! What changed is only a hint. The reader looks at every log now and then anyway, because network file systems say
//! nothing, and inotify instances are few.

use std::collections::BTreeSet;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use tokio::sync::Notify;

/// The first line of a burst wakes at once, the following ones together after this: bounds the cost of a busy log.
const PAUSE: Duration = Duration::from_millis(20);
/// The thread only passes numbers on.
const STACK: usize = 64 << 10;

/// Files that are watched.
#[derive(Debug)]
pub struct Watch {
    inotify: Arc<OwnedFd>,
    changed: Arc<Changed>,
    /// Closed when this is dropped, which ends the thread.
    _alive: OwnedFd,
}

#[derive(Debug, Default)]
struct Changed {
    watches: Mutex<BTreeSet<i32>>,
    wake: Notify,
}

impl Watch {
    /// Starts the thread.
    ///
    /// # Errors
    /// When no inotify instance is left (fs.inotify.max_user_instances).
    pub fn start() -> io::Result<Self> {
        let inotify = Arc::new(inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?);
        let changed = Arc::new(Changed::default());
        let (end, alive) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let (fd, seen) = (Arc::clone(&inotify), Arc::clone(&changed));
        std::thread::Builder::new()
            .name("log-watch".to_owned())
            .stack_size(STACK)
            .spawn(move || watch(&fd, &end, &seen))?;
        Ok(Self { inotify, changed, _alive: alive })
    }

    /// Watches a log: its own file for lines, its directory for rotation. Returns what [`Watch::changed`] will name.
    pub fn add(&self, path: &Path) -> BTreeSet<i32> {
        let file = WatchFlags::MODIFY | WatchFlags::MOVE_SELF | WatchFlags::ATTRIB;
        let place = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        let directory = path.parent().unwrap_or(Path::new("/"));
        let added = [
            inotify::add_watch(&self.inotify, path, file),
            inotify::add_watch(&self.inotify, directory, place),
        ];
        added.into_iter().flatten().collect()
    }

    /// Waits until something changed, and tells what.
    pub async fn changed(&self) -> BTreeSet<i32> {
        self.changed.wake.notified().await;
        let mut watches = self.changed.watches.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut watches)
    }
}

fn watch(inotify: &OwnedFd, end: &OwnedFd, changed: &Changed) {
    let mut buffer = [MaybeUninit::uninit(); 4096];
    loop {
        let mut fds = [PollFd::new(inotify, PollFlags::IN), PollFd::new(end, PollFlags::IN)];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        if !fds[1].revents().is_empty() {
            return;
        }
        let mut reader = inotify::Reader::new(inotify, &mut buffer);
        {
            let mut watches = changed.watches.lock().unwrap_or_else(PoisonError::into_inner);
            while let Ok(event) = reader.next() {
                if !event.events().contains(ReadFlags::IGNORED) {
                    watches.insert(event.wd());
                }
            }
        }
        changed.wake.notify_one();
        std::thread::sleep(PAUSE);
    }
}
