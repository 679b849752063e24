//! The agent's one loop: what sources saw becomes durable here, and only then leaves.

use std::fs::File;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, Notify};
use tokio::time::MissedTickBehavior;
use why502_proto::v1::{self, Fact};
use why502_proto::{FactLine, Kind};

use crate::clock::Moment;
use crate::config::Config;
use crate::observe::{Mark, Marks, Observations, Observed, Observer, channel, channel_from};
use crate::source::gateway::journal_lines::JournalLines;
use crate::source::{Interest, Roots, gateway, journal, kernel, network, unit};
use crate::spool::{Spool, SpoolConfig};
use crate::stream::{self, Shared, StreamConfig};

/// Observations that become durable together, at most: one fdatasync takes 0.3 ms whatever their number.
const BATCH_MAX: usize = 2048;
/// The loop looks at the clocks and pings the watchdog this often.
const TICK: Duration = Duration::from_secs(5);
/// Every so many ticks the spool notes that the agent is alive: once a minute.
const ALIVE_TICKS: u32 = 12;
/// Name of that mark; its position is boot and boot time.
const ALIVE: &str = "agent alive";
/// Smaller steps of the wall clock are ordinary slewing.
const CLOCK_JUMP_US: i64 = 500_000;
/// After a source has ended, which none should.
const SOURCE_PAUSE: Duration = Duration::from_secs(10);
/// What is left of the stop time for the collector to take the last facts.
const DRAIN: Duration = Duration::from_secs(1);

/// Why the agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The state directory is another agent's.
    #[error("another why502-agent uses {}: stop it, or give this one another --state-dir", path.display())]
    Locked {
        /// The directory.
        path: std::path::PathBuf,
    },
    /// The state directory cannot be used.
    #[error("cannot use {}: give a writable directory with --state-dir", path.display())]
    StateDir {
        /// The directory.
        path: std::path::PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The spool cannot be opened.
    #[error("cannot open the spool")]
    Spool(#[from] crate::spool::SpoolError),
    /// The kernel refuses what every agent needs.
    #[error("cannot start watching the kernel")]
    Kernel(#[source] std::io::Error),
    /// Signals cannot be handled.
    #[error("cannot handle signals")]
    Signals(#[source] std::io::Error),
}

/// An error with its sources, as one line.
pub fn error_chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        // hyper and others repeat their source.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

/// This boot, /proc/sys/kernel/random/boot_id.
pub fn boot_id(roots: &Roots) -> String {
    crate::source::boot_id(roots)
}

/// Runs until SIGTERM or SIGINT. Within a `tokio::task::LocalSet`.
///
/// # Errors
/// If the state directory or the kernel cannot be used.
pub async fn run(config: &Config) -> Result<(), RunError> {
    let roots = Roots::default();
    let state = config.state_dir();
    let _lock = lock(&state)?;
    let boot = boot_id(&roots);
    let spool_config =
        SpoolConfig { dir: state.join("spool"), bytes_max: config.spool_max_mib.max(8) << 20 };
    let spool = Spool::open(&spool_config, &boot)?;
    let last_sign_us = spool.last_sign_us().max(last_alive_us(spool.marks(), &boot));
    let (observer, observations) = channel_from(spool.marks().clone());
    observer.observe(Kind::AgentStarted(started(&roots, last_sign_us)));
    let shared = Arc::new(Shared { spool: Mutex::new(spool), appended: Notify::new() });
    start_sources(&roots, &observer, &config.endpoints)?;
    let stream = StreamConfig {
        url: config.collector.clone(),
        host: config.host_name(),
        boot: boot.clone(),
        tls: config.tls(),
    };
    let streaming = tokio::task::spawn_local(stream::run(stream, Arc::clone(&shared)));
    let ready = [sd_notify::NotifyState::Ready];
    // Outside of systemd there is nobody to tell.
    let _ = sd_notify::notify(&ready);
    let mut keeper = Keeper::new(observations, Arc::clone(&shared), boot);
    keeper.keep(&observer).await?;
    keeper.drain(&observer).await;
    streaming.abort();
    Ok(())
}

/// Starts every source. `endpoints` are those of a gateway that cannot be read. A source that ends
/// or panics says that it is blind, and is started again behind what it had handed over.
///
/// # Errors
/// If the kernel thread cannot be started.
pub fn start_sources(
    roots: &Roots,
    observer: &Observer,
    endpoints: &[String],
) -> Result<(), RunError> {
    let handle = kernel::start(roots.clone(), observer.clone()).map_err(RunError::Kernel)?;
    let tell = move |interest: Interest| handle.tell(interest);
    let (for_unit, for_gateway) = (tell.clone(), tell);
    let root = roots.clone();
    supervise(observer, v1::Source::Network, SOURCE_PAUSE, move |seen| {
        Box::pin(network::run(root.clone(), seen))
    });
    let lines = JournalLines::default();
    let read = lines.clone();
    let root = roots.clone();
    supervise(observer, v1::Source::Unit, SOURCE_PAUSE, move |seen| {
        Box::pin(unit::run(root.clone(), seen, for_unit.clone()))
    });
    let root = roots.clone();
    supervise(observer, v1::Source::Journal, SOURCE_PAUSE, move |seen| {
        let marks = seen.marks();
        Box::pin(journal::run(root.clone(), seen, marks, read.clone()))
    });
    let named: Rc<[String]> = endpoints.into();
    let root = roots.clone();
    supervise(observer, v1::Source::Gateway, SOURCE_PAUSE, move |seen| {
        let (tell, marks) = (for_gateway.clone(), seen.marks());
        let given = gateway::Given { marks, journal: lines.clone(), named: named.clone() };
        Box::pin(gateway::run(root.clone(), seen, tell, given))
    });
    Ok(())
}

fn supervise(
    observer: &Observer,
    source: v1::Source,
    pause: Duration,
    start: impl Fn(Observer) -> Pin<Box<dyn Future<Output = ()>>> + 'static,
) {
    let observer = observer.clone();
    tokio::task::spawn_local(async move {
        loop {
            let ended = tokio::task::spawn_local(start(observer.clone())).await;
            let reason = match ended {
                Ok(()) => "it ended".to_owned(),
                Err(error) if error.is_cancelled() => return,
                Err(error) => format!("it failed: {error}"),
            };
            observer.blinded(source, "", &reason, "nothing: it is started again");
            tokio::time::sleep(pause).await;
        }
    });
}

/// Holds the state directory for this process. The kernel lets go of it when the process ends, however it ends.
fn lock(state: &Path) -> Result<File, RunError> {
    use std::os::unix::fs::DirBuilderExt;
    let error = |source| RunError::StateDir { path: state.to_owned(), source };
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(state).map_err(error)?;
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(state.join("lock"))
        .map_err(error)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(_) => Err(RunError::Locked { path: state.to_owned() }),
    }
}

/// Boot time at which an earlier run in this boot noted that it was alive.
fn last_alive_us(marks: &Marks, boot: &str) -> Option<u64> {
    marks.get(ALIVE)?.strip_prefix(boot)?.trim().parse().ok()
}

/// `last_sign_us`: boot time of the last fact of an earlier run in this boot.
fn started(roots: &Roots, last_sign_us: Option<u64>) -> v1::AgentStarted {
    let now_us = Moment::now().boottime_us;
    let uname = rustix::system::uname();
    v1::AgentStarted {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        kernel: uname.release().to_string_lossy().into_owned(),
        distribution: crate::source::distribution(roots),
        blind_ms: last_sign_us.map(|last_us| now_us.saturating_sub(last_us) / 1000),
    }
}

/// Turns observations into durable facts.
struct Keeper {
    observations: Observations,
    shared: Arc<Shared>,
    /// Taken together, to become durable together.
    batch: Vec<(Option<Fact>, Option<Mark>)>,
    clock_us: i64,
    boot: String,
    ticks: u32,
}

impl Keeper {
    fn new(observations: Observations, shared: Arc<Shared>, boot: String) -> Self {
        let clock_us = wall_minus_boot();
        Self { observations, shared, batch: Vec::new(), clock_us, boot, ticks: 0 }
    }

    async fn keep(&mut self, observer: &Observer) -> Result<(), RunError> {
        let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signals)?;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                observed = self.observations.next() => {
                    let Some(observed) = observed else { return Ok(()) };
                    self.take(observed);
                    while self.batch.len() < BATCH_MAX
                        && let Some(observed) = self.observations.try_next()
                    {
                        self.take(observed);
                    }
                    self.append().await;
                }
                _ = tick.tick() => {
                    self.look_at_clocks(observer);
                    self.note_alive();
                    self.append().await;
                    // Waits for whoever holds the spool: no ping where the stream or the disk hangs.
                    self.shared.spool.lock().await.save();
                    let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]);
                }
                _ = terminate.recv() => return Ok(()),
                _ = interrupt.recv() => return Ok(()),
            }
        }
    }

    /// The last words: why it stops, and what is still queued.
    async fn drain(&mut self, observer: &Observer) {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        observer.observe(Kind::AgentStopped(v1::AgentStopped { reason: "asked to".to_owned() }));
        while let Some(observed) = self.observations.try_next() {
            self.take(observed);
        }
        self.append().await;
        tokio::time::sleep(DRAIN).await;
        self.shared.spool.lock().await.save();
    }

    fn take(&mut self, observed: Observed) {
        let Observed { at, kind, mark } = observed;
        let fact = kind.map(|kind| Fact {
            seq: 0,
            boottime_us: at.boottime_us,
            realtime_us: at.realtime_us,
            kind: Some(kind),
        });
        self.batch.push((fact, mark));
    }

    async fn append(&mut self) {
        let mut spool = self.shared.spool.lock().await;
        let dropped = self.observations.take_dropped();
        if dropped > 0 {
            spool.lost(dropped, "source queue full");
        }
        // What the disk refuses waits in the spool, and is delivered from there.
        spool.append(&mut self.batch);
        drop(spool);
        self.batch.clear();
        self.shared.appended.notify_one();
    }

    fn note_alive(&mut self) {
        if self.ticks.is_multiple_of(ALIVE_TICKS) {
            let position = format!("{} {}", self.boot, Moment::now().boottime_us);
            self.batch.push((None, Some(Mark { name: ALIVE.to_owned(), position })));
        }
        self.ticks += 1;
    }

    fn look_at_clocks(&mut self, observer: &Observer) {
        let now = wall_minus_boot();
        let by_us = now - std::mem::replace(&mut self.clock_us, now);
        if by_us.abs() > CLOCK_JUMP_US {
            observer.observe(Kind::ClockJumped(v1::ClockJumped { by_us }));
        }
    }
}

fn wall_minus_boot() -> i64 {
    let now = Moment::now();
    now.realtime_us - i64::try_from(now.boottime_us).unwrap_or(i64::MAX)
}

/// Hands every observation to `show` as a line, until the sources end or `show` says so. For `facts`.
pub async fn show(
    config: &Config,
    mut show: impl FnMut(&FactLine) -> bool,
) -> Result<(), RunError> {
    let (observer, mut observations) = channel();
    start_sources(&Roots::default(), &observer, &config.endpoints)?;
    let zero = Moment::now().boottime_us;
    let host = config.host_name();
    while let Some(observed) = observations.next().await {
        let Some(kind) = observed.kind else { continue };
        let offset_us =
            i64::try_from(observed.at.boottime_us).unwrap_or(0) - i64::try_from(zero).unwrap_or(0);
        if !show(&FactLine { offset_us, host: host.clone(), kind }) {
            break;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines of a log that can be read again, and a reader that fails at one of them, once.
    #[tokio::test(flavor = "current_thread")]
    async fn a_source_that_fails_goes_on_behind_what_it_handed_over() {
        let (observer, mut observations) =
            channel_from(Marks::from([("log".to_owned(), "2".to_owned())]));
        let failed = std::rc::Rc::new(std::cell::Cell::new(false));
        let read = async move {
            supervise(&observer, v1::Source::Gateway, Duration::ZERO, move |seen| {
                let failed = failed.clone();
                Box::pin(async move {
                    let from: i64 = seen.marks()["log"].parse().unwrap();
                    for line in from + 1..=9 {
                        assert!(
                            line != 6 || failed.replace(true),
                            "a line that the source cannot take"
                        );
                        let kind = Kind::ClockJumped(v1::ClockJumped { by_us: line });
                        let mark = Mark { name: "log".to_owned(), position: line.to_string() };
                        let at = Moment::now();
                        let observed = Observed { at, kind: Some(kind), mark: Some(mark) };
                        seen.observe_waiting(observed).await;
                    }
                    std::future::pending().await
                })
            });
            let mut lines = Vec::new();
            while lines.last() != Some(&9) {
                match observations.next().await.and_then(|observed| observed.kind) {
                    Some(Kind::ClockJumped(jump)) => lines.push(jump.by_us),
                    Some(Kind::SourceBlinded(blinded)) => {
                        assert!(blinded.reason.contains("it failed"), "{}", blinded.reason);
                        lines.push(0);
                    }
                    other => panic!("{other:?}"),
                }
            }
            lines
        };
        let lines = tokio::task::LocalSet::new().run_until(read).await;
        assert_eq!(lines, [3, 4, 5, 0, 6, 7, 8, 9], "each once, and that it was blind between");
    }
}
