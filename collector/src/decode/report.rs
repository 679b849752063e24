//! What is said of a tally, as text and as JSON.

use jiff::Timestamp;
use serde_json::{Value, json};
use why502_explain::{Candidates, candidates};
use why502_gateway::any;
use why502_proto::v1::RequestFailed;

use super::tally::{Failures, Names, Tally, Times, status_only};
use crate::text::{Paint, clean, hang, moment, words};

/// Causes that are named with their summary; those further back only by their names.
const NEAREST: u8 = 0;
/// Other events that are shown.
const EVENTS_SHOWN: usize = 10;

/// The whole report; `top` routes and endpoints of each kind.
pub fn text(tally: &Tally, top: usize, paint: Paint) -> String {
    let failures = tally.failures();
    let mut text = head(tally, failures.len());
    let told: u64 =
        failures.iter().filter(|(_, f)| !status_only(&f.example)).map(|(_, f)| f.count).sum();
    for (gateway, kind) in &failures {
        text += &format!("\n{}\n", paint.bold(&title(gateway, kind)));
        text += &body(kind, top, told > 0, paint);
    }
    if !tally.events.is_empty() {
        text += &format!("\n{}\n", paint.bold("also"));
        for (event, times) in tally.events.iter().take(EVENTS_SHOWN) {
            text += &hang("  ", &format!("{}, {}", event, when(times)), paint);
        }
    }
    text
}

fn head(tally: &Tally, kinds: usize) -> String {
    let formats: Vec<&str> = tally.formats.keys().copied().collect();
    let what = match kinds {
        0 => "no failed request".to_owned(),
        1 => "1 kind of failure".to_owned(),
        kinds => format!("{kinds} kinds of failure"),
    };
    let size = match tally.bytes / 1_000_000 {
        0 => "under 1 MB".to_owned(),
        megabytes => format!("{} MB", grouped(megabytes)),
    };
    let from = if formats.is_empty() { "of no known log".to_owned() } else { formats.join(", ") };
    format!("{what} in {} lines, {size} ({from})\n", grouped(tally.lines))
}

fn title(gateway: &str, kind: &Failures) -> String {
    let felt = if status_only(&kind.example) {
        "answered, and the log does not say why".to_owned()
    } else {
        words::felt_by(&kind.example)
    };
    let statuses: Vec<String> = kind.statuses.keys().map(ToString::to_string).collect();
    let statuses =
        if statuses.is_empty() { String::new() } else { format!("{} ", statuses.join("/")) };
    format!("{} x  {statuses}{}: {felt}", grouped(kind.count), clean(gateway))
}

fn body(kind: &Failures, top: usize, others: bool, paint: Paint) -> String {
    let example = &kind.example;
    let found = candidates(example);
    let mut text = line("when", &when(&kind.times), paint);
    for (name, names) in [("routes", &kind.routes), ("endpoints", &kind.endpoints)] {
        let listed = listed(names, top);
        if !listed.is_empty() {
            text += &line(name, &listed, paint);
        }
    }
    if !example.message.is_empty() {
        text += &line("it said", &format!("\"{}\"", example.message), paint);
    }
    if status_only(example) {
        let hint = if others {
            "these may be the requests above: an access log has only their status"
        } else {
            "read the gateway's error log with it, or log the upstream's times and statuses"
        };
        text += &line("note", hint, paint);
    }
    // Of a bare status everything may be the cause, which helps nobody.
    if !status_only(example) {
        text += &causes(&found, paint);
    }
    text += &line("find out", found.separator, paint);
    text + &format!("{:13}{}\n", "", clean(&filled(&found, kind)))
}

fn causes(found: &Candidates, paint: Paint) -> String {
    let mut text = String::new();
    let mut label = "may be";
    for cause in found.causes.iter().filter(|cause| cause.links == NEAREST) {
        text += &line(label, &format!("{}: {}", cause.rule.id, cause.rule.summary), paint);
        label = "";
    }
    let behind: Vec<&str> = found
        .causes
        .iter()
        .filter(|cause| cause.links > NEAREST)
        .map(|cause| cause.rule.id)
        .collect();
    if !behind.is_empty() {
        text += &line("behind", &behind.join(", "), paint);
    }
    text
}

fn line(label: &str, text: &str, paint: Paint) -> String {
    hang(&format!("  {label:11}"), text, paint)
}

fn listed(names: &Names, top: usize) -> String {
    let (first, others) = names.top(top);
    let mut all: Vec<String> =
        first.iter().map(|(name, count)| format!("{name} ({})", grouped(*count))).collect();
    if others > 0 {
        all.push(format!("others ({})", grouped(others)));
    }
    all.join(", ")
}

fn when(times: &Times) -> String {
    let (Some(first), Some(last)) = (at(times.first_us), at(times.last_us)) else {
        return format!("{} x, the lines have no time", grouped(times.count));
    };
    if times.count == 1 || first == last {
        return format!("{} {}", moment::day(last), moment::clock(last, last));
    }
    format!(
        "{} {} to {}",
        moment::day(first),
        moment::clock(first, first),
        moment::clock(last, first)
    )
}

fn at(us: Option<i64>) -> Option<Timestamp> {
    us.and_then(|us| Timestamp::from_microsecond(us).ok())
}

/// The check with the most frequent endpoint in it.
fn filled(found: &Candidates, kind: &Failures) -> String {
    let (top, _) = kind.endpoints.top(1);
    let endpoint = top.first().map_or("ENDPOINT", |(name, _)| *name);
    let path = endpoint.strip_prefix("unix:").unwrap_or(endpoint);
    let (host, port) = match endpoint.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => (host, port),
        _ if endpoint == "ENDPOINT" => ("HOST", "PORT"),
        _ => (endpoint, "80"),
    };
    let host = host.trim_matches(['[', ']']);
    let words = [("{endpoint}", endpoint), ("{host}", host), ("{port}", port), ("{path}", path)];
    words.iter().fold(found.check.to_owned(), |check, (name, value)| check.replace(name, value))
}

/// 1204112 as 1,204,112.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The same for programs.
pub fn json(tally: &Tally, top: usize) -> Value {
    let failures = tally.failures();
    let failures: Vec<Value> =
        failures.iter().map(|(gateway, kind)| failure(gateway, kind, top)).collect();
    let events = tally.events.iter().map(|(text, times)| {
        json!({"text": text, "count": times.count, "first": stamp(times.first_us),
               "last": stamp(times.last_us)})
    });
    json!({
        "lines": tally.lines,
        "bytes": tally.bytes,
        "formats": tally.formats.keys().collect::<Vec<_>>(),
        "failures": failures,
        "events": events.collect::<Vec<_>>(),
    })
}

fn failure(gateway: &str, kind: &Failures, top: usize) -> Value {
    let RequestFailed { message, .. } = &kind.example;
    let found = candidates(&kind.example);
    let names = |names: &Names| {
        let (first, others) = names.top(top);
        let first = first.iter().map(|(name, count)| json!({"name": name, "count": count}));
        json!({"top": first.collect::<Vec<_>>(), "others": others})
    };
    let causes = found.causes.iter().map(|cause| {
        json!({"cause": cause.rule.id, "summary": cause.rule.summary, "links": cause.links})
    });
    let statuses = kind.statuses.iter().map(|(status, count)| (status.to_string(), json!(count)));
    json!({
        "gateway": gateway,
        "phase": words::phase_name(kind.example.phase()),
        "error": words::fault_name(kind.example.fault()),
        "felt": words::felt_by(&kind.example),
        "count": kind.count,
        "first": stamp(kind.times.first_us),
        "last": stamp(kind.times.last_us),
        "statuses": statuses.collect::<serde_json::Map<_, _>>(),
        "routes": names(&kind.routes),
        "endpoints": names(&kind.endpoints),
        "message": message,
        "candidates": causes.collect::<Vec<_>>(),
        "separator": found.separator,
        "check": filled(&found, kind),
    })
}

fn stamp(us: Option<i64>) -> Value {
    at(us).map_or(Value::Null, |at| Value::String(at.to_string()))
}

/// How each log is switched on, and what makes it say more.
const HOW: [(&str, &str); 12] = [
    (
        "nginx",
        "error_log /var/log/nginx/error.log; (level error), the access log in format combined, or as JSON with \
               nginx's names of variables",
    ),
    ("haproxy", "option httplog, or option tcplog; log /dev/log local0"),
    ("apache", "ErrorLog and CustomLog ... vhost_combined"),
    ("caddy", "the directive log in each site; its default log has the errors"),
    ("traefik", "accessLog with format json, log with level DEBUG"),
    (
        "envoy",
        "access_log in the default format, or JSON with response_flags and response_code_details",
    ),
    ("alb", "AWS ALB: access logs to S3 (.gz)"),
    ("azure-gateway", "Azure Application Gateway: diagnostic setting ApplicationGatewayAccessLog"),
    ("cloudflare", "Logpush, data set http_requests, as NDJSON"),
    ("cloudfront", "AWS CloudFront: standard logs to S3 (.gz)"),
    ("fastly", "real-time logging in the JSON format that the panel proposes"),
    (
        "google-lb",
        "Google load balancer: logging of the backend service; gcloud logging read --format json | jq -c '.[]'",
    ),
];

/// What to do when no line is known.
pub fn known_formats() -> String {
    let how = |name: &str| HOW.iter().find(|(known, _)| *known == name).map_or("", |(_, how)| how);
    let lines = any::names().map(|name| format!("  {name:14} {}", how(name)));
    format!(
        "it knows these logs, and how they are switched on:\n{}",
        lines.collect::<Vec<_>>().join("\n")
    )
}
