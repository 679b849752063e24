//! Cloudflare: Logpush, data set `http_requests`, one JSON object on a line.
//!
//! <https://developers.cloudflare.com/logs/logpush/logpush-job/datasets/zone/http_requests/>, and for what 52x mean
//! <https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/>.

use serde_json::{Map, Value};
use why502_proto::v1::{Fault, Phase};

use super::{Answer, Each, Format, failing, micros, number, object, status, text};

/// "cloudflare"
pub const FORMAT: Format = Format {
    name: "cloudflare",
    knows: |line| read(line).is_some(),
    lines: || Box::new(Each("cloudflare", read)),
};

/// `EdgeResponseStatus`, and what Cloudflare felt at the origin.
const STATUSES: [(u16, Phase, Fault, &str); 8] = [
    (
        520,
        Phase::Header,
        Fault::Unspecified,
        "the origin answered nothing, or nothing that can be understood",
    ),
    (521, Phase::Connect, Fault::Econnrefused, "the origin refused the connection"),
    (522, Phase::Connect, Fault::Timeout, "no connection to the origin in time"),
    (523, Phase::Connect, Fault::Ehostunreach, "the origin is unreachable"),
    (524, Phase::Header, Fault::Timeout, "the origin did not answer in time"),
    (525, Phase::Tls, Fault::TlsHandshake, "the TLS handshake with the origin failed"),
    (526, Phase::Tls, Fault::TlsCertificate, "the origin's certificate is not valid"),
    (
        530,
        Phase::Resolve,
        Fault::DnsFailed,
        "the origin's name was not resolved, or another error 1xxx",
    ),
];

fn read(line: &str) -> Option<Answer> {
    if !line.contains("\"EdgeResponseStatus\"") {
        return None;
    }
    let fields = object(line)?;
    let edge = status(fields.get("EdgeResponseStatus"))?;
    let origin = status(fields.get("OriginResponseStatus")).filter(|status| *status != 0);
    let known = STATUSES.iter().find(|(status, ..)| *status == edge);
    let felt = match (known, origin) {
        (_, Some(own)) if own == edge && (502..=504).contains(&edge) => {
            Some((Phase::Header, Fault::Relayed))
        }
        (Some((_, phase, fault, _)), _) => Some((*phase, *fault)),
        (None, _) => failing(edge).then_some((Phase::Unspecified, Fault::Unspecified)),
    };
    let uri = text(&fields, "ClientRequestURI");
    let path = text(&fields, "ClientRequestPath");
    let path = if path.is_empty() { uri } else { path };
    Some(Answer {
        at_us: time(&fields),
        instance: text(&fields, "ZoneName").to_owned(),
        host: text(&fields, "ClientRequestHost").to_owned(),
        path: path.split(['?', '#']).next().unwrap_or("").to_owned(),
        method: text(&fields, "ClientRequestMethod").to_owned(),
        status: edge,
        endpoint: text(&fields, "OriginIP").to_owned(),
        elapsed_ms: number(fields.get("OriginResponseDurationMs")).filter(|ms| *ms > 0),
        felt,
        reason: known.map_or("", |(.., words)| words).to_owned(),
        ..Answer::default()
    })
}

/// Nanoseconds, seconds or RFC 3339, as the job is set up.
fn time(fields: &Map<String, Value>) -> Option<i64> {
    let value = fields.get("EdgeEndTimestamp").or_else(|| fields.get("EdgeStartTimestamp"))?;
    match value {
        Value::String(text) => micros(text),
        Value::Number(number) => {
            let number = number.as_i64()?;
            if number > 100_000_000_000 {
                Some(number / 1000)
            } else {
                number.checked_mul(1_000_000)
            }
        }
        _ => None,
    }
}
