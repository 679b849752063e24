//! nginx's lines, of both logs and in any order: from the journal, from a terminal, or from a file
//! of which nobody knows the configuration.
//!
//! Without a configuration the names of routes come from the line: server name, or `Host:`, and the
//! first part of the path. What the access log says of a 502 is then all there is, unless its
//! format has nginx's upstream variables.

use std::sync::Arc;

use jiff::tz::TimeZone;
use serde_json::Value;
use why502_proto::v1::{self, Fault, Phase};

use super::access_log::{AccessLine, Format};
use super::answers;
use super::config::{Config, Location};
use super::error_log::{self, ErrorLine};
use super::message::{Meaning, meaning};
use super::{NAME, crashed, disabled, failed};
use crate::lines::{Lines, Told, What};
use crate::redact;

/// Reads lines of one nginx.
#[derive(Clone, Debug)]
pub struct NginxLines {
    /// Main configuration file; "": not known.
    pub instance: String,
    /// The unit that it runs as; "": not known.
    pub unit: String,
    /// What it declares; empty where nobody knows.
    pub config: Arc<Config>,
    /// What its access lines may look like, besides what needs no configuration.
    pub formats: Vec<Format>,
    /// Of the stamps of its error log. `None`: not known, so they say nothing.
    pub zone: Option<TimeZone>,
}

impl NginxLines {
    /// Of which nothing is known. Stamps without a zone are taken as those of `zone`.
    pub fn without_configuration(zone: Option<TimeZone>) -> Self {
        Self {
            instance: String::new(),
            unit: String::new(),
            config: Arc::default(),
            formats: Vec::new(),
            zone,
        }
    }

    fn access_line(&self, line: &str) -> Option<AccessLine> {
        let known = self.formats.iter().find_map(|format| format.read(line));
        known.or_else(|| usual(line))
    }

    fn error(&self, line: &ErrorLine<'_>, told: &mut Vec<Told>) {
        let zone = self.zone.as_ref();
        let at_us = zone.and_then(|zone| error_log::micros(line.stamp, zone));
        let what = match meaning(line) {
            Meaning::Failed { .. } => failed(line, &self.config, &self.instance).map(What::Failed),
            Meaning::Disabled => Some(What::Disabled(disabled(line, &self.config, &self.instance))),
            Meaning::WorkerCrashed(pid, signal) => {
                Some(What::Event(crashed(line, &self.unit, pid, signal)))
            }
            Meaning::Refused => Some(self.refused(line.message)),
            Meaning::OwnAnswer | Meaning::Nothing => None,
        };
        told.extend(what.map(|what| Told { at_us, what }));
    }

    fn refused(&self, message: &str) -> What {
        What::Reloaded(v1::GatewayReloaded {
            gateway: NAME.to_owned(),
            instance: self.instance.clone(),
            error: redact::line(message),
        })
    }

    fn access(&self, line: &AccessLine, told: &mut Vec<Told>) {
        let servers = (0..self.config.servers.len()).collect();
        let located = answers::locate(&self.config, &servers, line).map(|(_, location)| location);
        // A configuration that is known and sends such requests nowhere.
        if located.is_none() && !self.config.servers.is_empty() {
            return;
        }
        let relayed = (502..=504).contains(&line.status)
            && line.header == Some(true)
            && line.upstream_status == Some(line.status);
        let own = located.is_none() && !relayed && (502..=504).contains(&line.status);
        let failure = match located {
            Some(location) if relayed => Some(answers::failure(line, location, &self.instance)),
            None if relayed || own => Some(self.answered(line, relayed)),
            _ => None,
        };
        let count = self.count(line, located, relayed);
        let whats = failure.map(What::Failed).into_iter().chain([What::Answered(count)]);
        told.extend(whats.map(|what| Told { at_us: line.at_us, what }));
    }

    fn count(
        &self,
        line: &AccessLine,
        located: Option<&Location>,
        relayed: bool,
    ) -> v1::RequestCounts {
        match located {
            Some(location) => answers::count(line, location, &self.instance, relayed),
            None => answers::count_of(line, &route_of(line), &self.instance, relayed),
        }
    }

    /// A failure of which only the answer is known.
    fn answered(&self, line: &AccessLine, relayed: bool) -> v1::RequestFailed {
        let asked = line.peer.as_deref().is_some_and(|peer| !peer.is_empty());
        let (phase, fault) = match (relayed, line.connected, line.header) {
            (true, ..) => (Phase::Header, Fault::Relayed),
            (false, Some(false), _) if asked => (Phase::Connect, Fault::Unspecified),
            (false, Some(true), Some(false)) if line.status == 504 => {
                (Phase::Header, Fault::Timeout)
            }
            (false, Some(true), Some(false)) => (Phase::Header, Fault::Unspecified),
            _ => (Phase::Unspecified, Fault::Unspecified),
        };
        let fault = match (phase, line.status) {
            (Phase::Connect, 504) => Fault::Timeout,
            _ => fault,
        };
        let peer = line.peer.clone().unwrap_or_default();
        let address = answers::is_address(&peer);
        v1::RequestFailed {
            gateway: NAME.to_owned(),
            instance: self.instance.clone(),
            route: route_of(line),
            endpoint: if address { peer.clone() } else { String::new() },
            upstream: if address { String::new() } else { peer },
            phase: phase.into(),
            fault: fault.into(),
            status: Some(u32::from(line.status)),
            method: line.method.clone(),
            path: redact::line(&line.path),
            count: 1,
            elapsed_ms: line.response_ms,
            reused: None,
            message: String::new(),
        }
    }
}

impl Lines for NginxLines {
    fn read(&mut self, line: &str, told: &mut Vec<Told>) {
        let line = own(line);
        if let Some(line) = error_log::parse(line) {
            self.error(&line, told);
        } else if let Some(message) = line.strip_prefix("nginx: [emerg] ") {
            told.push(Told { at_us: None, what: self.refused(message) });
        } else if let Some(line) = self.access_line(line) {
            self.access(&line, told);
        }
    }
}

/// A line without the host and the tag that nginx writes into its datagrams, and that journald
/// leaves where the host's name stands before the tag ("gw nginx: 2026/...").
fn own(line: &str) -> &str {
    /// `ngx_syslog.c`: a tag has at most 32 bytes; names of hosts have at most 64.
    const HEAD_MAX: usize = 100;
    let bracket = line.find(" [").filter(|at| *at <= HEAD_MAX + 20);
    let Some(head) = bracket.and_then(|at| line.get(..at)) else { return line };
    let Some((tag, _)) = head.split_once(": ") else { return line };
    let rest = &line[tag.len() + 2..];
    let word = |c: char| c.is_ascii_alphanumeric() || "._- ".contains(c);
    let stamped = rest.starts_with(|c: char| c.is_ascii_digit());
    if stamped && tag.chars().all(word) { rest } else { line }
}

/// Formats that need no configuration: the predefined one, with anything behind it, and JSON whose
/// keys are named as nginx's variables.
fn usual(line: &str) -> Option<AccessLine> {
    if line.starts_with('{') {
        return json(line);
    }
    super::access_log::combined(line)
}

/// `{"status": "502", "upstream_addr": "10.0.0.7:8080", ...}`
fn json(line: &str) -> Option<AccessLine> {
    let Ok(Value::Object(fields)) = serde_json::from_str(line) else { return None };
    let own = ["upstream_addr", "upstream_status", "request_uri", "request", "remote_addr"];
    if !own.iter().any(|name| fields.contains_key(*name)) {
        return None;
    }
    let mut read = AccessLine::default();
    for (name, value) in &fields {
        match value {
            Value::String(text) => super::access_log::set(&mut read, name, text),
            Value::Number(number) => super::access_log::set(&mut read, name, &number.to_string()),
            _ => {}
        }
    }
    (read.status != 0).then_some(read)
}

/// Whether nginx, or nobody else, wrote such a line.
pub fn knows(line: &str) -> bool {
    let line = own(line);
    error_log::parse(line).is_some() || line.starts_with("nginx: [emerg] ") || usual(line).is_some()
}

fn route_of(line: &AccessLine) -> String {
    route(line.server.as_deref().unwrap_or(""), &line.host, &line.path)
}

/// The name of a route where no configuration is known: server name, or else what was asked for,
/// and the first part of the path.
pub fn route(server: &str, host: &str, path: &str) -> String {
    let name = match server {
        "" | "_" => host.rsplit_once(':').map_or(host, |(name, _)| name),
        name => name,
    };
    let first = path.get(1..).and_then(|rest| rest.find('/')).map_or(path, |at| &path[..=at + 1]);
    redact::line(format!("{name}{first}"))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    #[track_caller]
    fn check(lines: &str, expected: Expect) {
        let mut reader = NginxLines::without_configuration(Some(TimeZone::UTC));
        let mut told = Vec::new();
        for line in lines.lines() {
            assert!(knows(line), "{line}");
            reader.read(line, &mut told);
        }
        let failed = |failed: &v1::RequestFailed| {
            format!(
                "{} -> {} {} {} {:?}\n",
                failed.route,
                failed.endpoint,
                failed.phase().as_str_name(),
                failed.fault().as_str_name(),
                failed.status
            )
        };
        let text = told.iter().map(|told| match &told.what {
            What::Failed(fact) => failed(fact),
            What::Answered(_) => String::new(),
            other => format!("{other:?}\n"),
        });
        expected.assert_eq(&text.collect::<String>());
    }

    #[test]
    fn routes_come_from_the_line() {
        assert_eq!(route("_", "a.example:8080", "/api/users/7"), "a.example/api/");
        assert_eq!(route("shop.example", "x", "/favicon.ico"), "shop.example/favicon.ico");
        assert_eq!((route("", "", "/é/b"), route("", "", "")), ("/é/".to_owned(), String::new()));
    }

    #[test]
    fn error_lines_from_anywhere() {
        let rest = "[error] 12#12: *1 connect() failed (111: Connection refused) while connecting to upstream, client: \
                    ::1, server: a.example, request: \"GET /x/1 HTTP/1.1\", upstream: \"http://10.0.0.7:8080/x/1\", \
                    host: \"a.example\"";
        check(
            &format!(
                "{rest}\n2026/11/24 13:46:09 {rest}\ngw-1 nginx: 2026/11/24 13:46:09 {rest}\nnginx: 2026/11/24 \
                 13:46:09 {rest}"
            ),
            expect![[r#"
                a.example/x/ -> 10.0.0.7:8080 PHASE_CONNECT FAULT_ECONNREFUSED None
                a.example/x/ -> 10.0.0.7:8080 PHASE_CONNECT FAULT_ECONNREFUSED None
                a.example/x/ -> 10.0.0.7:8080 PHASE_CONNECT FAULT_ECONNREFUSED None
                a.example/x/ -> 10.0.0.7:8080 PHASE_CONNECT FAULT_ECONNREFUSED None
            "#]],
        );
    }

    #[test]
    fn access_lines_tell_as_much_as_their_format() {
        check(
            r#"10.98.0.9 - - [24/Nov/2026:13:46:09 +0000] "GET /api/x?token=1 HTTP/1.1" 502 157 "-" "curl"
10.98.0.9 - - [24/Nov/2026:13:46:09 +0000] "GET / HTTP/1.1" 200 157 "-" "curl"
{"time_iso8601":"2026-11-24T13:46:09+00:00","host":"a","request_uri":"/p/q","status":"502","upstream_addr":"10.0.0.7:80","upstream_status":"502","upstream_connect_time":"0.000","upstream_header_time":"0.004"}
{"time_iso8601":"2026-11-24T13:46:09+00:00","host":"a","request_uri":"/p/q","status":502,"upstream_addr":"10.0.0.7:80","upstream_status":"502","upstream_connect_time":"-","upstream_header_time":"-"}
{"msec":1795527969.123,"host":"a","request":"GET /p/q HTTP/1.1","status":504,"upstream_addr":"unix:/run/a.sock","upstream_connect_time":"0.000","upstream_header_time":"-"}
{"host":"a","request_uri":"/p/q","status":503,"upstream_addr":"backend"}"#,
            expect![[r#"
                /api/ ->  PHASE_UNSPECIFIED FAULT_UNSPECIFIED Some(502)
                a/p/ -> 10.0.0.7:80 PHASE_HEADER FAULT_RELAYED Some(502)
                a/p/ -> 10.0.0.7:80 PHASE_CONNECT FAULT_UNSPECIFIED Some(502)
                a/p/ -> unix:/run/a.sock PHASE_HEADER FAULT_TIMEOUT Some(504)
                a/p/ ->  PHASE_UNSPECIFIED FAULT_UNSPECIFIED Some(503)
            "#]],
        );
    }

    #[test]
    fn refused_configurations_and_lines_of_others() {
        check(
            "nginx: [emerg] unknown directive \"foo\" in /etc/nginx/nginx.conf:3",
            expect![[r#"
                Reloaded(GatewayReloaded { gateway: "nginx", instance: "", error: "unknown directive \"foo\" in /etc/nginx/nginx.conf:3" })
            "#]],
        );
        for line in ["", "{\"status\":502}", "gw haproxy[8]: 502 [x", "a: 2 [error] x"] {
            assert!(!knows(line), "{line}");
        }
    }
}
