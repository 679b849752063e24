//! Gateways that are not ours: lines of load balancers and networks that others run, each in the format of its maker.
//!
//! They name no errno, but a reason of their own; a table beside each reader says which phase and fault it stands for.
//! What a reason does not tell stays untold: `Fault::Unspecified`.

use serde_json::{Map, Value};
use why502_proto::v1::{self, Fault, Phase};

use crate::lines::{Lines, Told, What};
use crate::redact;

pub mod alb;
pub mod azure;
pub mod cloudflare;
pub mod cloudfront;
pub mod fastly;
pub mod google;

/// A format of such lines.
#[derive(Clone, Copy, Debug)]
pub struct Format {
    /// Name of the gateway in facts: "alb".
    pub name: &'static str,
    /// Whether a line is in it.
    pub knows: fn(&str) -> bool,
    /// Reads such lines.
    pub lines: fn() -> Box<dyn Lines>,
}

/// All of them.
pub const FORMATS: &[Format] = &[
    alb::FORMAT,
    azure::FORMAT,
    cloudflare::FORMAT,
    cloudfront::FORMAT,
    fastly::FORMAT,
    google::FORMAT,
];

/// One request that such a gateway answered.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answer {
    /// End of the request, microseconds since 1970.
    pub at_us: Option<i64>,
    /// Which load balancer or zone: the instance.
    pub instance: String,
    /// `Host:` that was asked for.
    pub host: String,
    /// Path, without query.
    pub path: String,
    /// Method.
    pub method: String,
    /// What the client was sent.
    pub status: u16,
    /// Where it was sent to; "": nowhere, or not told.
    pub endpoint: String,
    /// Target group, backend service, pool.
    pub upstream: String,
    /// How long the endpoint took.
    pub elapsed_ms: Option<u64>,
    /// What it felt, as the maker's documentation has it.
    pub felt: Option<(Phase, Fault)>,
    /// The maker's own word for it.
    pub reason: String,
}

impl Answer {
    /// What it tells: a failure where there was one, and one request in its status class.
    pub fn tell(self, gateway: &str, told: &mut Vec<Told>) {
        let route = crate::nginx::lines::route("", &self.host, &self.path);
        let is = |range: std::ops::Range<u16>| u32::from(range.contains(&self.status));
        let relayed = self.felt.is_some_and(|(_, fault)| fault == Fault::Relayed);
        let count = v1::RequestCounts {
            gateway: gateway.to_owned(),
            instance: self.instance.clone(),
            route: route.clone(),
            endpoint: self.endpoint.clone(),
            informational: is(100..200),
            success: is(200..300),
            redirect: is(300..400),
            client_error: is(400..500),
            server_error: is(500..600),
            relayed: u32::from(relayed),
            slowest_ms: self.elapsed_ms,
            bad_gateway: is(502..503),
            unavailable: is(503..504),
            gateway_timeout: is(504..505),
            ..v1::RequestCounts::default()
        };
        if let Some((phase, fault)) = self.felt {
            let failed = v1::RequestFailed {
                gateway: gateway.to_owned(),
                instance: self.instance,
                route,
                endpoint: self.endpoint,
                upstream: self.upstream,
                phase: phase.into(),
                fault: fault.into(),
                status: Some(u32::from(self.status)),
                method: self.method,
                path: redact::line(&self.path),
                count: 1,
                elapsed_ms: self.elapsed_ms,
                reused: None,
                message: redact::line(&self.reason),
            };
            told.push(Told { at_us: self.at_us, what: What::Failed(failed) });
        }
        told.push(Told { at_us: self.at_us, what: What::Answered(count) });
    }
}

/// A reader that reads each line by itself.
#[derive(Debug)]
struct Each(&'static str, fn(&str) -> Option<Answer>);

impl Lines for Each {
    fn read(&mut self, line: &str, told: &mut Vec<Told>) {
        if let Some(answer) = (self.1)(line) {
            answer.tell(self.0, told);
        }
    }
}

/// A status that says that an upstream failed, where nothing else is told.
fn failing(status: u16) -> bool {
    (502..=504).contains(&status) || (520..=530).contains(&status)
}

/// Host and path of "https://shop.example:443/api?x", or of "/api?x".
fn split_url(url: &str) -> (&str, &str) {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let (host, path) = match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    };
    (host, path.split(['?', '#']).next().unwrap_or(""))
}

fn object(line: &str) -> Option<Map<String, Value>> {
    match serde_json::from_str(line) {
        Ok(Value::Object(fields)) => Some(fields),
        _ => None,
    }
}

fn text<'a>(fields: &'a Map<String, Value>, name: &str) -> &'a str {
    fields.get(name).and_then(Value::as_str).unwrap_or("")
}

/// A number that may be written as text.
fn number(value: Option<&Value>) -> Option<u64> {
    match value? {
        Value::Number(number) => number.as_u64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn status(value: Option<&Value>) -> Option<u16> {
    number(value).and_then(|number| u16::try_from(number).ok())
}

/// Milliseconds of "1.234" seconds; `None` for -1, which is "not reached".
fn seconds_ms(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let part: String = part.chars().chain("000".chars()).take(3).collect();
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(part.parse().ok()?)
}

fn micros(text: &str) -> Option<i64> {
    text.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_microsecond)
}

#[cfg(test)]
mod tests;
