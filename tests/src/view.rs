//! What the collector says, asked over its HTTP API from inside its host's network.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use why502_proto::{from_json, v1};

use crate::client::unix_us;
use crate::lab::{Host, Lab};

const API: &str = "http://127.0.0.1:8503/api/v1";
/// How often incidents are asked for. `updated` tells the exact moment, so this only bounds how many short-lived
/// answers are missed.
const POLL: Duration = Duration::from_millis(25);
/// A request to the collector that takes longer has failed.
const REQUEST_MAX: Duration = Duration::from_secs(5);
/// An answer of the collector; 10,000 facts of 500 bytes are a fiftieth of it.
const ANSWER_MAX: u64 = 256 << 20;
/// As many facts as one scenario could ever make; the API's own bound.
const TIMELINE_MAX: u32 = 10_000;

/// The incidents at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Look {
    /// When they were asked for, microseconds since 1970.
    pub at_us: i64,
    /// Newest first.
    pub incidents: Vec<v1::Explanation>,
}

/// A fact of the store, as far as judging needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredFact {
    /// Corrected time, microseconds since 1970.
    pub at_us: i64,
    /// Host that saw it.
    pub host: String,
    /// Kind and fields in the text form.
    pub kind: String,
    /// See `kind`.
    pub text: String,
}

/// The store at the end of a run.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// By "host/boot/seq".
    pub facts: BTreeMap<String, StoredFact>,
    /// Clock tolerance of each host.
    pub tolerance_us: BTreeMap<String, i64>,
}

#[derive(Debug, Default)]
struct History {
    looks: Mutex<Vec<Look>>,
    more: Condvar,
}

/// Follows the incidents of a collector. Stops when dropped.
#[derive(Debug)]
pub struct Follow {
    history: Arc<History>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Follow {
    /// Begins to follow the collector on `host`.
    pub fn start(host: &Host) -> io::Result<Self> {
        let history = Arc::<History>::default();
        let stop = Arc::<AtomicBool>::default();
        let (writer, stopped) = (Arc::clone(&history), Arc::clone(&stop));
        let netns = host.network()?;
        let thread = thread::spawn(move || {
            if netns.enter().is_err() {
                return;
            }
            let agent = http();
            while !stopped.load(Ordering::Relaxed) {
                if let Ok(incidents) = incidents(&agent) {
                    writer.push(incidents);
                }
                thread::sleep(POLL);
            }
        });
        Ok(Self { history, stop, thread: Some(thread) })
    }

    /// All looks that differed from the one before.
    pub fn looks(&self) -> Vec<Look> {
        self.history.looks.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until `wanted` is true of the newest look, at most `max`.
    pub fn wait(&self, max: Duration, wanted: impl Fn(&Look) -> bool) -> bool {
        let deadline = Instant::now() + max;
        let mut looks = self.history.looks.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if looks.last().is_some_and(&wanted) {
                return true;
            }
            let Some(left) = deadline.checked_duration_since(Instant::now()) else { return false };
            let waited = self.history.more.wait_timeout(looks, left);
            looks = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl History {
    fn push(&self, incidents: Vec<v1::Explanation>) {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        if looks.last().is_none_or(|last| last.incidents != incidents) {
            looks.push(Look { at_us: unix_us(SystemTime::now()), incidents });
            self.more.notify_all();
        }
    }
}

fn http() -> ureq::Agent {
    ureq::Agent::config_builder().timeout_global(Some(REQUEST_MAX)).build().into()
}

fn get(agent: &ureq::Agent, path: &str) -> io::Result<serde_json::Value> {
    let mut answer = agent.get(format!("{API}/{path}")).call().map_err(io::Error::other)?;
    let body = answer.body_mut().with_config().limit(ANSWER_MAX);
    serde_json::from_str(&body.read_to_string().map_err(io::Error::other)?)
        .map_err(io::Error::other)
}

fn incidents(agent: &ureq::Agent) -> io::Result<Vec<v1::Explanation>> {
    let answer: v1::ListIncidentsResponse =
        from_json(&get(agent, "incidents")?).map_err(io::Error::other)?;
    Ok(answer.incidents)
}

/// Runs `what` in the network of `host`.
fn inside<T: Send>(host: &Host, what: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            host.network()?.enter()?;
            what()
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the request panicked")))
    })
}

/// Hosts that the collector on `host` knows.
///
/// # Errors
/// If it does not answer.
pub fn hosts(host: &Host) -> io::Result<Vec<v1::Host>> {
    let json = inside(host, || get(&http(), "hosts"))?;
    let answer: v1::ListHostsResponse = from_json(&json).map_err(io::Error::other)?;
    Ok(answer.hosts)
}

/// Everything in the store of the collector on `host` since `since_us`.
///
/// # Errors
/// If it does not answer.
pub fn store(host: &Host, names: &[String]) -> io::Result<Store> {
    let mut store = Store::default();
    for known in hosts(host)? {
        let tolerance = i64::try_from(known.clock_tolerance_us).unwrap_or(i64::MAX);
        store.tolerance_us.insert(known.host, tolerance);
    }
    for name in names {
        let path = format!("timeline?host={name}&limit={TIMELINE_MAX}");
        let json = inside(host, || get(&http(), &path))?;
        let answer: v1::GetTimelineResponse = from_json(&json).map_err(io::Error::other)?;
        for entry in answer.entries {
            let at_us = parse_time(&entry.at).unwrap_or(i64::MAX);
            let fact = StoredFact { at_us, host: entry.host, kind: entry.kind, text: entry.text };
            store.facts.insert(entry.id, fact);
        }
    }
    Ok(store)
}

/// RFC 3339 as microseconds since 1970.
pub fn parse_time(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_microsecond)
}

/// Asks without a pause until a fact of `host` since `since_us` is `wanted` (by kind and text), at most `max`.
///
/// # Errors
/// If the collector does not answer.
pub fn wait_for_fact(
    collector: &Host,
    host: &str,
    since_us: i64,
    max: Duration,
    wanted: impl Fn(&str, &str) -> bool + Send + Sync,
) -> io::Result<bool> {
    // Only the newest: a death is among them.
    let path = format!("timeline?host={host}&limit=12");
    inside(collector, || {
        let agent = http();
        let begun = Instant::now();
        while begun.elapsed() < max {
            let json = get(&agent, &path)?;
            let answer: v1::GetTimelineResponse = from_json(&json).map_err(io::Error::other)?;
            let hit = answer.entries.iter().any(|entry| {
                // A millisecond for rounding.
                parse_time(&entry.at).is_some_and(|at| at >= since_us - 1000)
                    && wanted(&entry.kind, &entry.text)
            });
            if hit {
                return Ok(true);
            }
        }
        Ok(false)
    })
}

/// Pids of a unit's processes as the machine sees them, by the cgroup of the host.
///
/// # Errors
/// If the unit has no cgroup.
pub fn unit_pids(lab: &Lab, host: &Host, unit: &str) -> io::Result<Vec<i32>> {
    let cgroup = format!("{}-{}/system.slice/{unit}/cgroup.procs", lab.name(), host.name());
    let hybrid = Path::new("/sys/fs/cgroup/systemd").join(&cgroup);
    let unified = Path::new("/sys/fs/cgroup").join(&cgroup);
    let text = fs::read_to_string(hybrid).or_else(|_| fs::read_to_string(unified))?;
    Ok(text.lines().filter_map(|line| line.parse().ok()).collect())
}
