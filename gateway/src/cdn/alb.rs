//! AWS Application Load Balancer: access log.
//!
//! <https://docs.aws.amazon.com/elasticloadbalancing/latest/application/load-balancer-access-logs.html>:
//! words separated by blanks, some in quotes. The times of request, target and response are -1
//! where that stage was not reached.

use why502_proto::v1::{Fault, Phase};

use super::{Answer, Each, Format, failing, micros, seconds_ms, split_url};

/// "alb"
pub const FORMAT: Format = Format {
    name: "alb",
    knows: |line| read(line).is_some(),
    lines: || Box::new(Each("alb", read)),
};

const TYPES: [&str; 6] = ["http ", "https ", "h2 ", "grpcs ", "ws ", "wss "];

fn read(line: &str) -> Option<Answer> {
    if !TYPES.iter().any(|kind| line.starts_with(kind)) {
        return None;
    }
    let words = words(line);
    let word = |at: usize| words.get(at).copied().unwrap_or("");
    let at_us = micros(word(1))?;
    let balancer = word(2);
    if !balancer.starts_with("app/") {
        return None;
    }
    let (status, target_status) = (word(8).parse::<u16>().ok()?, word(9).parse::<u16>().ok());
    let mut request = word(12).splitn(3, ' ');
    let method = request.next().unwrap_or("").to_owned();
    let (host, path) = split_url(request.next().unwrap_or(""));
    let target = if word(4) == "-" { "" } else { word(4) };
    let reason = if matches!(word(24), "-" | "") { "" } else { word(24) };
    Some(Answer {
        at_us: Some(at_us),
        instance: balancer.to_owned(),
        host: host.rsplit_once(':').map_or(host, |(name, _)| name).to_owned(),
        path: path.to_owned(),
        method,
        status,
        endpoint: target.to_owned(),
        upstream: group(word(16)).to_owned(),
        elapsed_ms: seconds_ms(word(6)),
        felt: felt(status, target_status, target, word(5), word(6)),
        reason: reason.to_owned(),
    })
}

/// What the times and statuses tell. A target that was chosen and never answered may have refused,
/// reset or closed.
fn felt(
    status: u16,
    target_status: Option<u16>,
    target: &str,
    request_time: &str,
    target_time: &str,
) -> Option<(Phase, Fault)> {
    if !failing(status) {
        return None;
    }
    Some(match (status, target_status) {
        (_, Some(own)) if own == status => (Phase::Header, Fault::Relayed),
        // No target is registered, or none is left.
        (503, None) if target.is_empty() => (Phase::Select, Fault::NoLiveUpstreams),
        // The request was never handed over: the connection was not there in 10 s.
        (504, None) if request_time.starts_with('-') => (Phase::Connect, Fault::Timeout),
        (504, None) if target_time.starts_with('-') => (Phase::Unspecified, Fault::Timeout),
        (504, None) => (Phase::Header, Fault::Timeout),
        _ => (Phase::Unspecified, Fault::Unspecified),
    })
}

/// "web" of
/// "arn:aws:elasticloadbalancing:eu-central-1:123456789012:targetgroup/web/73e2d6bc24d8a067".
fn group(arn: &str) -> &str {
    arn.split_once(":targetgroup/").map_or("", |(_, rest)| rest.split('/').next().unwrap_or(""))
}

/// Words; what is in quotes is one, without them.
fn words(line: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = line;
    while !rest.is_empty() {
        let (word, after) = match rest.strip_prefix('"') {
            Some(inner) => inner.split_once('"').unwrap_or((inner, "")),
            None => rest.split_at(rest.find(' ').unwrap_or(rest.len())),
        };
        words.push(word);
        rest = after.strip_prefix(' ').unwrap_or(after);
    }
    words
}
