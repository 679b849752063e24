//! Fastly: real-time logging in the JSON that its control panel proposes.
//!
//! <https://www.fastly.com/documentation/guides/integrations/streaming-logs/useful-variables-to-log/>.
//! Fastly answers 503 with a reason phrase of its own (`response_reason`); another phrase is the
//! origin's.

use why502_proto::v1::{Fault, Phase};

use super::{Answer, Each, Format, failing, micros, object, status, text};

/// "fastly"
pub const FORMAT: Format = Format {
    name: "fastly",
    knows: |line| read(line).is_some(),
    lines: || Box::new(Each("fastly", read)),
};

/// Reason phrases, in lower case, and what they stand for.
const REASONS: [(&str, Phase, Fault); 12] = [
    ("backend read error", Phase::Header, Fault::Unspecified),
    ("backend write error", Phase::Send, Fault::Unspecified),
    ("first byte timeout", Phase::Header, Fault::Timeout),
    ("between bytes timeout", Phase::Body, Fault::Timeout),
    ("connection timed out", Phase::Connect, Fault::Timeout),
    ("connection refused", Phase::Connect, Fault::Econnrefused),
    ("backend is unhealthy", Phase::Select, Fault::NoLiveUpstreams),
    ("all backends failed or unhealthy", Phase::Select, Fault::NoLiveUpstreams),
    ("hostname doesn't match against certificate", Phase::Tls, Fault::TlsCertificate),
    ("ssl handshake error", Phase::Tls, Fault::TlsHandshake),
    ("backend.max_conn reached", Phase::Select, Fault::ConnectionLimit),
    ("no stream", Phase::Header, Fault::Rejected),
];

fn read(line: &str) -> Option<Answer> {
    if !line.contains("\"response_reason\"") && !line.contains("\"fastly_server\"") {
        return None;
    }
    let fields = object(line)?;
    let answered = status(fields.get("response_status"))?;
    let reason = text(&fields, "response_reason");
    let lower = reason.to_ascii_lowercase();
    let known = REASONS.iter().find(|(name, ..)| lower.contains(name));
    let felt = known.map_or((Phase::Header, Fault::Relayed), |(_, phase, fault)| (*phase, *fault));
    // HTTP/2 has no phrase, so without one nothing is told.
    let felt = if reason.is_empty() { (Phase::Unspecified, Fault::Unspecified) } else { felt };
    Some(Answer {
        at_us: micros(text(&fields, "timestamp")).or_else(|| offset(text(&fields, "timestamp"))),
        host: text(&fields, "host").to_owned(),
        path: text(&fields, "url").split(['?', '#']).next().unwrap_or("").to_owned(),
        method: text(&fields, "request_method").to_owned(),
        status: answered,
        endpoint: text(&fields, "backend").to_owned(),
        felt: failing(answered).then_some(felt),
        reason: reason.to_owned(),
        ..Answer::default()
    })
}

/// "2026-11-24T13:46:09+0000", as its format string makes it.
fn offset(text: &str) -> Option<i64> {
    let time = jiff::fmt::strtime::parse("%Y-%m-%dT%H:%M:%S%z", text).ok()?;
    Some(time.to_timestamp().ok()?.as_microsecond())
}
