//! What the access log says of routes, and which of its 502s the upstream sent itself.
//!
//! nginx writes the error line of a request before its access line. So when the error log has been read to its end
//! after an access line was seen, and has no line for that request, nginx had nothing to complain of: the answer came
//! from upstream. Never concluded while the error log cannot be read, or where nginx may send such a status by itself.

use std::collections::{BTreeSet, VecDeque};

use why502_proto::v1;

use super::NAME;
use super::access_log::AccessLine;
use super::attribute;
use super::config::{Config, Location, Server};
use super::error_log::ErrorLine;

/// Failures that wait for their access line: those of some seconds.
const RECENT_MAX: usize = 4096;
/// Error and access line of one request have the same second, or the next one when the answer took its time.
const APART_US: i64 = 2_000_000;

/// Requests that nginx complained of lately.
#[derive(Debug, Default)]
pub struct Complaints(VecDeque<(i64, String, String)>);

impl Complaints {
    /// Keeps that `line`, stamped `at_us`, complained of its request.
    pub fn add(&mut self, line: &ErrorLine<'_>, at_us: i64) {
        if self.0.len() >= RECENT_MAX {
            self.0.pop_front();
        }
        self.0.push_back((at_us, line.client.to_owned(), line.path.to_owned()));
    }

    /// Takes the complaint that belongs to an access line.
    fn take(&mut self, line: &AccessLine, at_us: i64) -> bool {
        let found = self.0.iter().rposition(|(second, client, path)| {
            (at_us - second).abs() <= APART_US
                && (line.client.is_empty() || *client == line.client)
                && *path == line.path
        });
        found.and_then(|at| self.0.remove(at)).is_some()
    }
}

/// The location that an access line is about; `None`: it cannot be told, or no upstream is behind it.
pub fn locate<'a>(
    config: &'a Config,
    servers: &BTreeSet<usize>,
    line: &AccessLine,
) -> Option<(&'a Server, &'a Location)> {
    let all: Vec<&Server> = servers.iter().filter_map(|index| config.servers.get(*index)).collect();
    let host = line.host.rsplit_once(':').map_or(line.host.as_str(), |(host, _)| host);
    let host = host.to_ascii_lowercase();
    let named: Vec<&Server> = match &line.server {
        Some(name) => all.iter().copied().filter(|server| server.name == *name).collect(),
        None => all.iter().copied().filter(|server| server.names.contains(&host)).collect(),
    };
    let candidates = if named.is_empty() { all } else { named };
    let first = candidates.first()?;
    // Several servers write this log, and nothing in it tells them apart.
    if candidates.iter().any(|server| server.name != first.name) {
        return None;
    }
    let peer = line.peer.as_deref().unwrap_or("");
    let request =
        attribute::Request { server: &first.name, host: &line.host, path: &line.path, peer };
    let location = attribute::attribute(config, request)?;
    // The format names the peer, and none was asked.
    let local = line.peer.as_deref() == Some("") && !(502..=504).contains(&line.status);
    (!location.passes.is_empty() && !local).then_some((first, location))
}

/// Whether the upstream itself answered with this 502, 503 or 504. `sure`: the error log was read to its end since, and
/// has been followed for longer than the request.
pub fn relayed(
    line: &AccessLine,
    server: &Server,
    sure: bool,
    complaints: &mut Complaints,
) -> bool {
    if !(502..=504).contains(&line.status) {
        return false;
    }
    if let (Some(header), Some(status)) = (line.header, line.upstream_status) {
        return header && status == line.status;
    }
    let complained = line.at_us.is_none_or(|at_us| complaints.take(line, at_us));
    let asked = line.upstream_status.is_none_or(|status| status == line.status);
    // A path with escapes is not written alike in both logs.
    sure && !complained
        && asked
        && !line.path.contains('\\')
        && !server.own_statuses.contains(&line.status)
}

/// The count of one answer.
pub fn count(
    line: &AccessLine,
    location: &Location,
    instance: &str,
    relayed: bool,
) -> v1::RequestCounts {
    count_of(line, &location.route, instance, relayed)
}

/// The count of one answer of a route.
pub fn count_of(
    line: &AccessLine,
    route: &str,
    instance: &str,
    relayed: bool,
) -> v1::RequestCounts {
    let is = |range: std::ops::Range<u16>| u32::from(range.contains(&line.status));
    v1::RequestCounts {
        gateway: NAME.to_owned(),
        instance: instance.to_owned(),
        route: route.to_owned(),
        endpoint: line.peer.clone().filter(|peer| is_address(peer)).unwrap_or_default(),
        period_ms: 0,
        informational: is(100..200),
        success: is(200..300),
        redirect: is(300..400),
        client_error: is(400..500),
        server_error: is(500..600),
        relayed: u32::from(relayed),
        slowest_ms: line.response_ms,
        bad_gateway: is(502..503),
        unavailable: is(503..504),
        gateway_timeout: is(504..505),
    }
}

/// The failure of a request whose 502 was relayed.
pub fn failure(line: &AccessLine, location: &Location, instance: &str) -> v1::RequestFailed {
    let only = match location.peers().collect::<Vec<_>>().as_slice() {
        [(_, peer)] => peer.addresses.first().filter(|_| peer.addresses.len() == 1).cloned(),
        _ => None,
    };
    let peer = line.peer.clone().filter(|peer| is_address(peer)).or(only);
    v1::RequestFailed {
        gateway: NAME.to_owned(),
        instance: instance.to_owned(),
        route: location.route.clone(),
        endpoint: peer.unwrap_or_default(),
        upstream: location.passes.first().map(|pass| pass.upstream.clone()).unwrap_or_default(),
        phase: v1::Phase::Header.into(),
        fault: v1::Fault::Relayed.into(),
        status: Some(u32::from(line.status)),
        method: line.method.clone(),
        path: crate::redact::line(&line.path),
        count: 1,
        elapsed_ms: line.response_ms,
        reused: None,
        message: String::new(),
    }
}

/// Whether a peer was chosen, and is not only the name of a group.
pub fn is_address(peer: &str) -> bool {
    peer.starts_with("unix:") || peer.parse::<std::net::SocketAddr>().is_ok()
}
