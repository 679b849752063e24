//! What the lines of an access log tell: how many requests of a route were answered how, and which
//! errors an upstream answered itself.
//!
//! httpd does not log what an upstream answered. An own 502, 503 or 504 always leaves a line in the
//! error log, so one that leaves none was relayed; unless httpd was told to answer so (`Redirect
//! 503`), or nobody reads the error log. A format with `%L` says it in the line itself.

use std::collections::VecDeque;
use std::sync::Arc;

use jiff::ToSpan as _;
use why502_proto::v1::{self, Fault, Phase};

use super::access_log::{AccessLine, Format};
use super::attribute::complains;
use super::config::Route;
use super::error_lines::ErrorLines;
use super::logs::Log;
use super::worker::{Url, url};
use crate::lines::{Lines, Told, What};
use crate::redact;

/// Debian's format with the name of the host.
pub const VHOST_COMBINED: &str =
    "%v:%p %h %l %u %t \"%r\" %>s %O \"%{Referer}i\" \"%{User-Agent}i\"";
/// Answers that wait for the error log to be silent.
const WAITING_MAX: usize = 1024;
/// How long the error log must be silent, in seconds of the log.
const SILENT_S: i64 = 2;
/// A request that took longer is not asked about: its complaint may be forgotten.
const ASKED_MAX_S: i64 = 30;

/// Reads an access log.
#[derive(Debug)]
pub struct AccessLines {
    log: Arc<Log>,
    format: Format,
    waiting: VecDeque<Waiting>,
}

/// An error that the upstream may have answered itself.
#[derive(Debug)]
struct Waiting {
    client: String,
    /// Seconds of the request, as the error log writes them.
    seconds: Vec<String>,
    end_us: i64,
    failed: v1::RequestFailed,
    count: v1::RequestCounts,
}

impl AccessLines {
    /// Nothing is read yet.
    pub fn new(log: Arc<Log>, format: Format) -> Self {
        Self { log, format, waiting: VecDeque::new() }
    }

    fn line(&mut self, line: &AccessLine, told: &mut Vec<Told>) {
        if let Some(begin_us) = line.begin_us {
            self.release(begin_us, told);
        }
        let config = self.log.config.clone();
        let Some(route) = route(&self.log, line, &config) else { return };
        let end_us = line.begin_us.map(|begin| begin.saturating_add(line.took_us.unwrap_or(0)));
        let count = count(&self.log, route, line);
        let own = !(502..=504).contains(&line.status) || config.answers_itself || !complains(route);
        if own {
            told.push(Told { at_us: end_us, what: What::Answered(count) });
            return;
        }
        let failed = relayed(&self.log, route, line);
        match (line.complained, line.connected) {
            (Some(false), Some(true) | None) => tell(end_us, failed, count, told),
            (Some(true), _) | (_, Some(false)) => {
                told.push(Told { at_us: end_us, what: What::Answered(count) });
            }
            (None, _) => match (seconds(line), end_us) {
                (Some(seconds), Some(end_us)) if self.waiting.len() < WAITING_MAX => {
                    let client = line.client.clone();
                    self.waiting.push_back(Waiting { client, seconds, end_us, failed, count });
                }
                _ => told.push(Told { at_us: end_us, what: What::Answered(count) }),
            },
        }
    }

    /// Tells those that ended long enough before `now_us`.
    fn release(&mut self, now_us: i64, told: &mut Vec<Told>) {
        while let Some(first) = self.waiting.front()
            && now_us.saturating_sub(first.end_us) >= SILENT_S * 1_000_000
            && let Some(Waiting { client, seconds, end_us, failed, count }) =
                self.waiting.pop_front()
        {
            if self.log.shared.complaint(&client, &seconds) == Some(false) {
                tell(Some(end_us), failed, count, told);
            } else {
                told.push(Told { at_us: Some(end_us), what: What::Answered(count) });
            }
        }
    }
}

impl Lines for AccessLines {
    fn read(&mut self, line: &str, told: &mut Vec<Told>) {
        if let Some(line) = self.format.read(line) {
            self.line(&line, told);
        }
    }

    fn waits_for_others(&self) -> bool {
        true
    }
}

fn tell(
    at_us: Option<i64>,
    failed: v1::RequestFailed,
    mut count: v1::RequestCounts,
    told: &mut Vec<Told>,
) {
    count.relayed = 1;
    told.push(Told { at_us, what: What::Answered(count) });
    told.push(Told { at_us, what: What::Failed(failed) });
}

fn route<'a>(log: &Log, line: &AccessLine, config: &'a super::config::Config) -> Option<&'a Route> {
    if line.path.is_empty() {
        return None;
    }
    let name = line.host.split(':').next().unwrap_or("");
    let named: Vec<usize> =
        config.named(name).iter().copied().filter(|at| log.hosts.contains(at)).collect();
    let hosts = if named.is_empty() { log.hosts.as_slice() } else { named.as_slice() };
    config.by_path(hosts, &line.path)
}

/// The seconds that a request took, and the one behind them.
fn seconds(line: &AccessLine) -> Option<Vec<String>> {
    let begin = line.second.as_ref()?;
    let took = line.took_us.map_or(ASKED_MAX_S, |took| took / 1_000_000);
    let seconds = (-1..=took.min(ASKED_MAX_S) + 1).filter_map(|second| {
        let at = begin.checked_add(second.seconds()).ok()?;
        Some(at.strftime("%b %d %H:%M:%S %Y").to_string())
    });
    (line.took_us.is_none() || took <= ASKED_MAX_S).then(|| seconds.collect())
}

fn count(log: &Log, route: &Route, line: &AccessLine) -> v1::RequestCounts {
    let mut count = v1::RequestCounts {
        gateway: super::NAME.to_owned(),
        instance: log.instance.clone(),
        route: route.name.clone(),
        endpoint: endpoint(route, line),
        ..v1::RequestCounts::default()
    };
    match line.status {
        100..=199 => count.informational = 1,
        200..=299 => count.success = 1,
        300..=399 => count.redirect = 1,
        400..=499 => count.client_error = 1,
        _ => count.server_error = 1,
    }
    match line.status {
        502 => count.bad_gateway = 1,
        503 => count.unavailable = 1,
        504 => count.gateway_timeout = 1,
        _ => {}
    }
    count
}

/// The worker that the line names, else the only one of the route.
fn endpoint(route: &Route, line: &AccessLine) -> String {
    match (url(&line.worker), route.peers.as_slice()) {
        (Some(Url::Peer { endpoint, .. }), _) => endpoint,
        (_, [only]) => only.declared.endpoint.clone(),
        _ => String::new(),
    }
}

fn relayed(log: &Log, route: &Route, line: &AccessLine) -> v1::RequestFailed {
    let upstream = route.peers.first().map(|peer| peer.declared.upstream.clone());
    v1::RequestFailed {
        gateway: super::NAME.to_owned(),
        instance: log.instance.clone(),
        route: route.name.clone(),
        endpoint: endpoint(route, line),
        upstream: upstream.unwrap_or_default(),
        phase: Phase::Header.into(),
        fault: Fault::Relayed.into(),
        status: Some(u32::from(line.status)),
        method: line.method.clone(),
        path: redact::line(&line.path),
        count: 1,
        elapsed_ms: line.took_us.and_then(|took| u64::try_from(took / 1000).ok()),
        ..v1::RequestFailed::default()
    }
}

/// Lines of either log, of which no configuration is known.
#[derive(Debug)]
pub struct Either {
    errors: ErrorLines,
    format: Format,
}

impl Either {
    /// Nothing is read yet.
    pub fn new(log: Arc<Log>) -> Self {
        Self { errors: ErrorLines::new(log), format: Format::new(VHOST_COMBINED) }
    }
}

impl Lines for Either {
    fn read(&mut self, line: &str, told: &mut Vec<Told>) {
        let Some(answered) = self.format.read(line) else {
            self.errors.read(line, told);
            return;
        };
        let name = answered.host.split(':').next().unwrap_or("");
        let route = Route {
            name: format!("{name}{}", redact::line(&answered.path)),
            matcher: super::config::Matcher::Any,
            peers: Vec::new(),
            conditional: false,
        };
        let log = Log {
            instance: String::new(),
            config: Arc::default(),
            hosts: Vec::new(),
            shared: Arc::default(),
        };
        let what = What::Answered(count(&log, &route, &answered));
        told.push(Told { at_us: answered.begin_us, what });
    }

    fn pause(&mut self, told: &mut Vec<Told>) {
        self.errors.pause(told);
    }
}
