//! AWS CloudFront: standard log.
//!
//! <https://docs.aws.amazon.com/AmazonCloudFront/latest/DeveloperGuide/standard-logs-reference.html>: fields separated
//! by tabs, the 33 of version 1.0 in their order; a line `#Fields:` names them.

use why502_proto::v1::{Fault, Phase};

use super::{Answer, Each, Format, failing, seconds_ms};

/// "cloudfront"
pub const FORMAT: Format = Format {
    name: "cloudfront",
    knows: |line| line.starts_with("#Fields: date time x-edge-location") || read(line).is_some(),
    lines: || Box::new(Each("cloudfront", read)),
};

/// `x-edge-detailed-result-type`, and what it stands for.
const REASONS: [(&str, Phase, Fault); 8] = [
    ("OriginConnectError", Phase::Connect, Fault::Unspecified),
    ("OriginDnsError", Phase::Resolve, Fault::DnsFailed),
    ("NonS3OriginDnsError", Phase::Resolve, Fault::DnsFailed),
    ("OriginCommError", Phase::Unspecified, Fault::Timeout),
    ("OriginInvalidResponse", Phase::Header, Fault::HeaderInvalid),
    ("OriginReadError", Phase::Header, Fault::Unspecified),
    ("OriginWriteError", Phase::Send, Fault::Unspecified),
    ("OriginHeaderTooBigError", Phase::Header, Fault::HeaderTooBig),
];

fn read(line: &str) -> Option<Answer> {
    let fields: Vec<&str> = line.split('\t').collect();
    let field = |at: usize| fields.get(at).copied().filter(|text| *text != "-").unwrap_or("");
    let (date, time) = (field(0), field(1));
    if fields.len() < 14 || date.len() != 10 || time.len() != 8 {
        return None;
    }
    let at_us = super::micros(&format!("{date}T{time}Z"))?;
    let status = field(8).parse::<u16>().ok()?;
    let reason = field(28);
    let host = if field(15).is_empty() { field(6) } else { field(15) };
    let felt = failing(status).then(|| felt(status, reason, field(13)));
    Some(Answer {
        at_us: Some(at_us),
        instance: field(6).to_owned(),
        host: host.to_owned(),
        path: field(7).to_owned(),
        method: field(5).to_owned(),
        status,
        elapsed_ms: seconds_ms(field(18)),
        felt,
        reason: reason.to_owned(),
        ..Answer::default()
    })
}

fn felt(status: u16, reason: &str, result: &str) -> (Phase, Fault) {
    let known = REASONS.iter().find(|(name, ..)| *name == reason);
    match known {
        Some((_, Phase::Unspecified, Fault::Timeout)) if status != 504 => {
            (Phase::Unspecified, Fault::Unspecified)
        }
        Some((_, phase, fault)) => (*phase, *fault),
        None if reason == "OriginError" => (Phase::Header, Fault::Relayed),
        None if result == "CapacityExceeded" => (Phase::Select, Fault::ConnectionLimit),
        None => (Phase::Unspecified, Fault::Unspecified),
    }
}
