//! What the lines of Caddy's loggers tell: <https://caddyserver.com/docs/logging>.
//!
//! All loggers may write to one place, so each line is read by the name of its logger:
//! `http.log.error...` has the
//! requests that Caddy itself could not serve, `http.log.access...` all requests,
//! `http.handlers.reverse_proxy` answers
//! that broke off and health checks, `admin.api` what was loaded.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::Value;
use why502_proto::v1::{self, AppEvent, EndpointDeclared, Fault, Phase};

use super::config::Config;
use super::entry::{Entry, fields, seconds_us};
use super::message::{meaning, peer};
use crate::lines::{Lines, Told, What};
use crate::redact;

/// Peers whose failing health checks were told.
const CHECKED_MAX: usize = 1024;
/// A health check that goes on failing is told again after this time.
const CHECKED_US: i64 = 60_000_000;

/// Reads lines of any logger, as JSON or in the console format.
#[derive(Debug)]
pub struct CaddyLines {
    instance: String,
    config: Arc<Config>,
    checked: VecDeque<(String, i64)>,
    unchanged: bool,
}

impl CaddyLines {
    /// Nothing is read yet.
    pub fn new(instance: &str, config: Arc<Config>) -> Self {
        let instance = instance.to_owned();
        Self { instance, config, checked: VecDeque::new(), unchanged: false }
    }

    fn entry(&mut self, entry: &Entry<'_>) -> Vec<What> {
        let logger = entry.logger;
        if logger.starts_with("http.log.error") {
            return self.failed(entry).into_iter().collect();
        }
        if logger.starts_with("http.log.access") {
            return self.answered(entry);
        }
        if logger.contains("health_checker") {
            return self.checked(entry).into_iter().collect();
        }
        if logger.starts_with("http.handlers.reverse_proxy") {
            return self.broke_off(entry).into_iter().collect();
        }
        if entry.message.contains("Accept error") && entry.message.contains("too many open files") {
            return vec![What::Event(v1::AppServerEvent {
                server: super::NAME.to_owned(),
                event: AppEvent::FdsExhausted.into(),
                text: redact::line(entry.message),
                ..v1::AppServerEvent::default()
            })];
        }
        self.loaded(entry).into_iter().collect()
    }

    /// "load complete", "request error"
    fn loaded(&mut self, entry: &Entry<'_>) -> Option<What> {
        let reloaded = |error: String| {
            let instance = self.instance.clone();
            Some(What::Reloaded(v1::GatewayReloaded {
                gateway: super::NAME.to_owned(),
                instance,
                error,
            }))
        };
        if entry.message == "config is unchanged" {
            self.unchanged = true;
            return None;
        }
        if entry.logger != "admin.api" {
            return None;
        }
        match entry.message {
            "load complete" if std::mem::take(&mut self.unchanged) => None,
            "load complete" => reloaded(String::new()),
            "request error" if entry.text("error").contains("loading") => {
                reloaded(redact::line(entry.text("error")))
            }
            _ => None,
        }
    }

    fn failed(&self, entry: &Entry<'_>) -> Option<What> {
        let status = entry.fields["status"].as_u64().and_then(|status| status.try_into().ok());
        let error = entry.message;
        let (phase, fault) = meaning(error)?;
        // An error of another handler, whatever words it uses.
        let proxied =
            entry.text("err_trace").contains("reverseproxy") || entry.text("err_trace").is_empty();
        proxied.then(|| What::Failed(self.failure(entry, error, phase, fault, status)))
    }

    fn failure(
        &self,
        entry: &Entry<'_>,
        error: &str,
        phase: Phase,
        fault: Fault,
        status: Option<u32>,
    ) -> v1::RequestFailed {
        let named = match entry.text("upstream") {
            "" => peer(error),
            upstream => upstream
                .strip_prefix("unix/")
                .map_or_else(|| upstream.to_owned(), |path| format!("unix:{path}")),
        };
        let (route, endpoint) = self.about(entry, &named, phase);
        v1::RequestFailed {
            gateway: super::NAME.to_owned(),
            instance: self.instance.clone(),
            route,
            endpoint,
            phase: phase.into(),
            fault: fault.into(),
            status,
            method: entry.request("method").to_owned(),
            path: redact::line(entry.path()),
            count: 1,
            elapsed_ms: entry.duration_ms(),
            // Go says so only where it found out before it sent anything.
            reused: error.contains("server closed idle connection").then_some(true),
            message: redact::line(error),
            ..v1::RequestFailed::default()
        }
    }

    /// Route and endpoint. An address that the declared peers do not have is one that a name of
    /// theirs led to.
    fn about(&self, entry: &Entry<'_>, named: &str, phase: Phase) -> (String, String) {
        let (host, path) = (entry.request("host"), entry.path());
        let fits = |declared: &EndpointDeclared| {
            let name = declared.endpoint.rsplit_once(':').map_or("", |(name, _)| name);
            declared.endpoint == named || (phase == Phase::Resolve && name == named)
        };
        let by_peer =
            (!named.is_empty()).then(|| self.config.with_peer(host, path, fits)).flatten();
        let anywhere = || {
            let mut routes = self.config.routes.iter();
            // A path that was rewritten before it was logged leads to no route.
            routes.find(|route| !named.is_empty() && route.peers.iter().any(fits))
        };
        // Where the line has the upstream as it was declared, a path that was rewritten would
        // mislead.
        let exact =
            by_peer.or_else(|| (!entry.text("upstream").is_empty()).then(anywhere).flatten());
        let Some(route) = exact.or_else(|| self.config.route(host, path)).or_else(anywhere) else {
            let name = if named.contains(':') { named } else { "" };
            return (format!("{host}{}", redact::line(path)), name.to_owned());
        };
        let declared = route.peers.iter().find(|declared| fits(declared));
        let endpoint = match (declared, route.peers.as_slice()) {
            (Some(declared), _) => declared.endpoint.clone(),
            (None, [only]) if named.parse::<SocketAddr>().is_err() => only.endpoint.clone(),
            (None, _) if named.contains(':') => named.to_owned(),
            (None, _) => String::new(),
        };
        let endpoint = if phase == Phase::Select { String::new() } else { endpoint };
        (route.name.clone(), endpoint)
    }

    fn broke_off(&self, entry: &Entry<'_>) -> Option<What> {
        if entry.message != "aborting with incomplete response" {
            return None;
        }
        let error = entry.text("error");
        let (_, fault) = meaning(error)?;
        Some(What::Failed(self.failure(entry, error, Phase::Body, fault, None)))
    }

    /// A health check failed.
    fn checked(&mut self, entry: &Entry<'_>) -> Option<What> {
        let error = entry.text("error");
        let (phase, fault) = match entry.message {
            "HTTP request failed" => meaning(error)?,
            "unexpected status code"
            | "status code out of tolerances"
            | "response body failed expectations" => (Phase::Header, Fault::Unspecified),
            _ => return None,
        };
        let host = entry.text("host");
        let now_us = entry.at_us.unwrap_or(0);
        match self.checked.iter_mut().find(|(checked, _)| checked == host) {
            Some((_, last)) if now_us.saturating_sub(*last) < CHECKED_US => return None,
            Some((_, last)) => *last = now_us,
            None => {
                if self.checked.len() >= CHECKED_MAX {
                    self.checked.pop_front();
                }
                self.checked.push_back((host.to_owned(), now_us));
            }
        }
        let endpoint = host
            .strip_prefix("unix/")
            .map_or_else(|| host.to_owned(), |path| format!("unix:{path}"));
        Some(What::Disabled(v1::EndpointDisabled {
            instance: self.instance.clone(),
            endpoint,
            phase: phase.into(),
            fault: fault.into(),
            message: redact::line(if error.is_empty() { entry.message } else { error }),
            ..v1::EndpointDisabled::default()
        }))
    }

    fn answered(&self, entry: &Entry<'_>) -> Vec<What> {
        let Some(status) = entry.fields["status"].as_u64().filter(|status| *status > 0) else {
            return Vec::new();
        };
        let (host, path) = (entry.request("host"), entry.path());
        let route = self.config.route(host, path);
        if route.is_none() && !self.config.routes.is_empty() {
            return Vec::new();
        }
        let endpoint = match route.map(|route| route.peers.as_slice()) {
            Some([only]) => only.endpoint.clone(),
            _ => String::new(),
        };
        let name = route
            .map_or_else(|| format!("{host}{}", redact::line(path)), |route| route.name.clone());
        let bad = matches!(status, 502..=504);
        let relayed = bad && came_from_upstream(&entry.fields["resp_headers"]);
        let is = |yes: bool| u32::from(yes);
        let count = v1::RequestCounts {
            gateway: super::NAME.to_owned(),
            instance: self.instance.clone(),
            route: name.clone(),
            endpoint: endpoint.clone(),
            informational: is(status < 200),
            success: is((200..300).contains(&status)),
            redirect: is((300..400).contains(&status)),
            client_error: is((400..500).contains(&status)),
            server_error: is(status >= 500),
            relayed: is(relayed),
            bad_gateway: is(status == 502),
            unavailable: is(status == 503),
            gateway_timeout: is(status == 504),
            ..v1::RequestCounts::default()
        };
        let mut told = vec![What::Answered(count)];
        if relayed {
            told.push(What::Failed(v1::RequestFailed {
                gateway: super::NAME.to_owned(),
                instance: self.instance.clone(),
                route: name,
                endpoint,
                phase: Phase::Header.into(),
                fault: Fault::Relayed.into(),
                status: u32::try_from(status).ok(),
                method: entry.request("method").to_owned(),
                path: redact::line(path),
                count: 1,
                elapsed_ms: entry.duration_ms(),
                ..v1::RequestFailed::default()
            }));
        }
        told
    }
}

/// Caddy adds `Via` to what an upstream answered (since 2.10); before, an upstream's own `Date` or
/// `Server` tells: Caddy
/// sets no `Date` of its own here.
fn came_from_upstream(headers: &Value) -> bool {
    let has = |name: &str, fits: fn(&str) -> bool| {
        let values = headers[name].as_array().map_or(&[][..], Vec::as_slice);
        values.iter().any(|value| value.as_str().is_some_and(fits))
    };
    has("Via", |value| value.ends_with("Caddy"))
        || has("Date", |value| !value.is_empty())
        || has("Server", |value| value != "Caddy")
}

impl Lines for CaddyLines {
    fn read(&mut self, line: &str, told: &mut Vec<Told>) {
        let Some(fields) = fields(line) else { return };
        let entry = Entry {
            logger: fields["logger"].as_str().unwrap_or(""),
            message: fields["msg"].as_str().unwrap_or(""),
            level: fields["level"].as_str().unwrap_or(""),
            at_us: seconds_us(&fields["ts"]),
            fields: &fields,
        };
        if entry.level == "debug" {
            return;
        }
        let at_us = entry.at_us;
        told.extend(self.entry(&entry).into_iter().map(|what| Told { at_us, what }));
    }
}

#[cfg(test)]
mod tests {
    use super::super::entry::knows;
    use super::*;

    #[test]
    fn the_console_format() {
        let line = "2026/11/27 22:23:19.210\tERROR\thttp.log.error.log0\tdial tcp 127.0.0.1:7001: connect: connection \
                    refused\t{\"request\": {\"method\": \"GET\", \"host\": \"localhost\", \"uri\": \"/x?a=b\"}, \"duration\": 0.0015, \
                    \"status\": 502}";
        assert!(knows(line));
        let mut told = Vec::new();
        CaddyLines::new("", Arc::default()).read(line, &mut told);
        let [Told { at_us: None, what: What::Failed(failed) }] = told.as_slice() else {
            panic!("{told:?}")
        };
        assert_eq!(
            (failed.status, failed.fault(), failed.elapsed_ms),
            (Some(502), Fault::Econnrefused, Some(1))
        );
        assert_eq!(
            (failed.route.as_str(), failed.endpoint.as_str()),
            ("localhost/x", "127.0.0.1:7001")
        );
    }

    #[test]
    fn what_was_loaded() {
        let mut lines = CaddyLines::new("/etc/caddy/Caddyfile", Arc::default());
        let mut told = Vec::new();
        for line in [
            "{\"level\":\"info\",\"ts\":1795818214.3254795,\"msg\":\"config is unchanged\"}",
            "{\"level\":\"info\",\"ts\":1795818214.325516,\"logger\":\"admin.api\",\"msg\":\"load complete\"}",
            "{\"level\":\"info\",\"ts\":1795818215.5,\"logger\":\"admin.api\",\"msg\":\"load complete\"}",
            "{\"level\":\"error\",\"ts\":1795818216.6,\"logger\":\"admin.api\",\"msg\":\"request error\",\"error\":\"loading config: \
             loading new config: invalid listener address '256.1.1.1:99999'\",\"status_code\":400}",
        ] {
            lines.read(line, &mut told);
        }
        let errors: Vec<_> = told
            .iter()
            .filter_map(|told| match &told.what {
                What::Reloaded(reloaded) => Some((told.at_us, reloaded.error.as_str())),
                _ => None,
            })
            .collect();
        let refused =
            "loading config: loading new config: invalid listener address '256.1.1.1:99999'";
        assert_eq!(
            errors,
            [(Some(1_795_818_215_500_000), ""), (Some(1_795_818_216_600_000), refused)]
        );
    }

    #[test]
    fn other_lines() {
        let mut lines = CaddyLines::new("", Arc::default());
        let mut told = Vec::new();
        for line in [
            "",
            "{",
            "{\"logger\":\"http\"}",
            "a\tb\tc\td\te",
            "\t\t\t\t{}",
            "{\"logger\":\"http.log.access\",\"status\":-1}",
        ] {
            lines.read(line, &mut told);
        }
        assert_eq!(told, []);
        assert!(!knows("{\"level\":\"info\"}"));
    }
}
