//! The client: requests the scenario's URL five times a second with curl from a host of its own, for the whole run, and
//! writes down what it saw.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use crate::lab::Host;

/// Five requests a second.
const PERIOD: Duration = Duration::from_millis(200);
/// A request that hangs is given up after this, longer than any gateway timeout of a scenario.
const REQUEST_MAX_S: &str = "30";
/// Requests under way at once: what hangs for `REQUEST_MAX_S` at five a second.
const UNDER_WAY_MAX: usize = 150;

/// One request and what came back.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Request {
    /// Microseconds since 1970.
    pub begun_us: i64,
    /// Microseconds since 1970.
    pub ended_us: i64,
    /// 0: there was no answer.
    pub status: u16,
    /// In curl's words; empty if there was none.
    pub error: String,
}

impl Request {
    /// The gateway failed, or did not answer at all. A 4xx is an answer.
    pub fn failed(&self) -> bool {
        self.status == 0 || self.status >= 500
    }
}

#[derive(Debug, Default)]
struct Log {
    requests: Mutex<Vec<Request>>,
    more: Condvar,
}

/// A running client. Stops when dropped.
#[derive(Debug)]
pub struct Client {
    log: Arc<Log>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Client {
    /// Begins to request `url` from `host`; every request is a line of JSON in `file` too.
    ///
    /// # Errors
    /// If the host's network or the file cannot be opened.
    pub fn start(host: &Host, url: &str, method: &str, file: PathBuf) -> io::Result<Self> {
        let mut file = fs::File::create(file)?;
        let log = Arc::<Log>::default();
        let stop = Arc::<AtomicBool>::default();
        let curl = Curl::new(host, url, method);
        let (log_of_thread, stop_of_thread) = (Arc::clone(&log), Arc::clone(&stop));
        let pacer = thread::spawn(move || {
            let (log, stop) = (log_of_thread, stop_of_thread);
            let mut under_way: Vec<JoinHandle<()>> = Vec::new();
            let mut written = 0;
            let mut next = Instant::now();
            while !stop.load(Ordering::Relaxed) {
                under_way.retain(|thread| !thread.is_finished());
                if under_way.len() < UNDER_WAY_MAX {
                    let (log, curl) = (Arc::clone(&log), curl.clone());
                    under_way.push(thread::spawn(move || log.push(curl.request())));
                }
                written = log.write_from(written, &mut file);
                next += PERIOD;
                thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            log.write_from(written, &mut file);
        });
        Ok(Self { log, stop, threads: vec![pacer] })
    }

    /// Begins `count` further clients that request without a pause and are not counted.
    pub fn load(&mut self, host: &Host, url: &str, method: &str, count: u32) {
        for _ in 0..count {
            let curl = Curl::new(host, url, method);
            let stop = Arc::clone(&self.stop);
            self.threads.push(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    // Without an answer at all, it would spin.
                    if curl.request().status == 0 {
                        thread::sleep(PERIOD);
                    }
                }
            }));
        }
    }

    /// What came back so far, in the order of ending.
    pub fn requests(&self) -> Vec<Request> {
        self.log.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until a request that began at `since_us` or later is `wanted`, at most `max`.
    pub fn wait(
        &self,
        since_us: i64,
        max: Duration,
        wanted: impl Fn(&Request) -> bool,
    ) -> Option<Request> {
        let deadline = Instant::now() + max;
        let mut requests = self.log.requests.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let hit = requests.iter().find(|r| r.begun_us >= since_us && wanted(r));
            if let Some(hit) = hit {
                return Some(hit.clone());
            }
            let left = deadline.checked_duration_since(Instant::now())?;
            let waited = self.log.more.wait_timeout(requests, left);
            requests = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Client {
    /// Requests that are under way end with their host, at the latest after `REQUEST_MAX_S`; nobody waits for them.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if !self.threads.is_empty() {
            let _ = self.threads.remove(0).join();
        }
    }
}

impl Log {
    fn push(&self, request: Request) {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
        self.more.notify_all();
    }

    fn write_from(&self, from: usize, file: &mut fs::File) -> usize {
        let requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        for request in requests.iter().skip(from) {
            // The file is for people; the numbers come from memory.
            if let Ok(line) = serde_json::to_string(request) {
                let _ = writeln!(file, "{line}");
            }
        }
        requests.len()
    }
}

/// One request as a process.
#[derive(Clone, Debug)]
struct Curl {
    pid1: u32,
    url: String,
    method: String,
}

impl Curl {
    fn new(host: &Host, url: &str, method: &str) -> Self {
        Self { pid1: host.pid1(), url: url.to_owned(), method: method.to_owned() }
    }

    fn request(&self) -> Request {
        let begun = SystemTime::now();
        let begun_us = unix_us(begun);
        let mut command = std::process::Command::new("nsenter");
        command
            .args(["-t", &self.pid1.to_string(), "-n", "-m", "--", "curl", "-s", "-k"])
            .args(["-o", "/dev/null", "--max-time", REQUEST_MAX_S, "-X", &self.method])
            .args(["-w", "%{http_code} %{time_total} %{errormsg}"]);
        if self.method != "GET" && self.method != "HEAD" {
            command.args(["-d", "x=1"]);
        }
        let output = command.arg(&self.url).stdin(Stdio::null()).output();
        let ended_us = unix_us(SystemTime::now());
        match output {
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stdout).into_owned();
                let mut words = said.splitn(3, ' ');
                let status = words.next().and_then(|status| status.parse().ok()).unwrap_or(0);
                let error = words.nth(1).unwrap_or("no answer from curl").trim().to_owned();
                Request { begun_us, ended_us, status, error }
            }
            Err(error) => Request { begun_us, ended_us, status: 0, error: error.to_string() },
        }
    }
}

/// Microseconds since 1970.
pub fn unix_us(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// How often each status came back after `since_us`; no answer counts as "000", like curl prints it.
pub fn statuses(requests: &[Request], since_us: i64) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for request in requests.iter().filter(|request| request.ended_us >= since_us) {
        *counts.entry(format!("{:03}", request.status)).or_default() += 1;
    }
    counts
}
