//! Parts of messages: peers, schemes, processes.

use why502_proto::v1::{self, AppEvent};

use super::attribute::Class;
use super::error_log::ErrorLine;
use super::message::Rule;
use crate::redact;

/// A process of httpd ended, or it has no more of something.
pub fn event(line: &ErrorLine<'_>, rule: Rule) -> v1::AppServerEvent {
    let number = |prefix: &str| {
        let rest = line.message.split_once(prefix)?.1;
        let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        rest[..end].parse::<u32>().ok()
    };
    let (event, pid, signal) = match rule {
        Rule::Exhausted(event) => (event, line.pid(), None),
        _ => (AppEvent::WorkerCrashed, number("child pid ").unwrap_or(0), number("(")),
    };
    v1::AppServerEvent {
        server: super::NAME.to_owned(),
        event: event.into(),
        pid,
        signal,
        text: redact::line(line.said()),
        ..v1::AppServerEvent::default()
    }
}

/// What kind of worker speaks: "http: attempt ...".
pub fn class(message: &str) -> Class {
    Class::of_scheme(scheme(message))
}

/// "http" of "http: attempt ...".
pub fn scheme(message: &str) -> &str {
    message.split(':').next().unwrap_or_default()
}

/// "app:8080" of "... to 10.0.0.7:8080 (app:8080) failed", "disabled connection for (app:8080)".
pub fn in_parentheses(message: &str) -> &str {
    let inner = message.rsplit_once('(').and_then(|(_, rest)| rest.split_once(')'));
    inner.map_or("", |(inner, _)| inner)
}

/// "10.0.0.7:8080" of "... attempt to connect to 10.0.0.7:8080 (app:8080) failed", "unix:/run/a.sock".
pub fn address(message: &str) -> &str {
    let Some((_, rest)) = message.split_once("connect to ") else { return "" };
    let rest = rest.strip_prefix("Unix domain socket ").unwrap_or(rest);
    rest.split_once(" (").map_or(rest, |(address, _)| address)
}

/// "127.0.0.1:7002" of "... remote server 127.0.0.1:7002", "... failed to 127.0.0.1:7002 (127.0.0.1)".
pub fn peer_at_end(message: &str) -> &str {
    let message = match message.rsplit_once(" (") {
        Some((before, _)) => before,
        None => message,
    };
    let word = message.rsplit(' ').next().unwrap_or_default();
    let looks = word.contains(':') || message.contains("connection to backend: ");
    if looks { word } else { "" }
}
