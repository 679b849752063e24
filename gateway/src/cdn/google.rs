//! Google Cloud Application Load Balancer: entries of Cloud Logging as JSON, one on a line.
//!
//! <https://cloud.google.com/load-balancing/docs/https/https-logging-monitoring>: `jsonPayload.statusDetails` says why.

use serde_json::Value;
use why502_proto::v1::{Fault, Phase};

use super::{Answer, Each, Format, failing, micros, object, seconds_ms, split_url, status, text};

/// "google-lb"
pub const FORMAT: Format = Format {
    name: "google-lb",
    knows: |line| read(line).is_some(),
    lines: || Box::new(Each("google-lb", read)),
};

/// `statusDetails`, and what it stands for.
const REASONS: [(&str, Phase, Fault); 8] = [
    ("response_sent_by_backend", Phase::Header, Fault::Relayed),
    ("failed_to_pick_backend", Phase::Select, Fault::NoLiveUpstreams),
    ("failed_to_connect_to_backend", Phase::Connect, Fault::Unspecified),
    ("backend_connection_closed_before_data_sent_to_client", Phase::Header, Fault::Closed),
    ("backend_connection_closed_after_partial_response_sent", Phase::Body, Fault::Closed),
    ("backend_timeout", Phase::Header, Fault::Timeout),
    ("backend_response_corrupted", Phase::Header, Fault::HeaderInvalid),
    ("ssl_certificate_san_verification_failed", Phase::Tls, Fault::TlsCertificate),
];

fn read(line: &str) -> Option<Answer> {
    if !line.contains("\"httpRequest\"") || !line.contains("statusDetails") {
        return None;
    }
    let fields = object(line)?;
    let request = fields.get("httpRequest")?.as_object()?;
    let answered = status(request.get("status"))?;
    let details = fields.get("jsonPayload").and_then(|payload| payload.get("statusDetails"));
    let reason = details.and_then(Value::as_str).unwrap_or("");
    let (host, path) = split_url(text(request, "requestUrl"));
    let labels = fields.get("resource").and_then(|resource| resource.get("labels"));
    let label = |name: &str| {
        labels.and_then(|labels| labels.get(name)).and_then(Value::as_str).unwrap_or("").to_owned()
    };
    let known = REASONS.iter().find(|(name, ..)| *name == reason);
    let early = known.is_some_and(|(_, phase, _)| *phase == Phase::Body);
    let felt = known
        .map_or((Phase::Unspecified, Fault::Unspecified), |(_, phase, fault)| (*phase, *fault));
    Some(Answer {
        at_us: micros(text(&fields, "timestamp")),
        instance: label("url_map_name"),
        host: host.to_owned(),
        path: path.to_owned(),
        method: text(request, "requestMethod").to_owned(),
        status: answered,
        endpoint: text(request, "serverIp").to_owned(),
        upstream: label("backend_service_name"),
        elapsed_ms: seconds_ms(text(request, "latency").trim_end_matches('s')),
        felt: (failing(answered) || early).then_some(felt),
        reason: reason.to_owned(),
    })
}
