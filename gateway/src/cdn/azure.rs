//! Azure Application Gateway: access log, one JSON object on a line.
//!
//! <https://learn.microsoft.com/azure/application-gateway/monitor-application-gateway-reference>:
//! `error_info` of version 2 says why, `serverStatus` what the pool's member answered.

use why502_proto::v1::{Fault, Phase};

use super::{Answer, Each, Format, failing, micros, object, seconds_ms, status, text};

/// "azure-gateway"
pub const FORMAT: Format = Format {
    name: "azure-gateway",
    knows: |line| read(line).is_some(),
    lines: || Box::new(Each("azure-gateway", read)),
};

/// `error_info`, and what it stands for.
const REASONS: [(&str, Phase, Fault); 4] = [
    ("ERRORINFO_UPSTREAM_NO_LIVE", Phase::Select, Fault::NoLiveUpstreams),
    ("ERRORINFO_UPSTREAM_CLOSED_CONNECTION", Phase::Header, Fault::Closed),
    ("ERRORINFO_UPSTREAM_TIMED_OUT", Phase::Unspecified, Fault::Timeout),
    ("ERRORINFO_INVALID_HEADER", Phase::Header, Fault::HeaderInvalid),
];

fn read(line: &str) -> Option<Answer> {
    if !line.contains("ApplicationGatewayAccess") {
        return None;
    }
    let fields = object(line)?;
    let properties = fields.get("properties")?.as_object()?;
    let answered = status(properties.get("httpStatus"))?;
    let own = status(properties.get("serverStatus"));
    let reason = text(properties, "error_info");
    let known = REASONS.iter().find(|(name, ..)| *name == reason);
    let felt = match (known, own) {
        (Some((_, phase, fault)), _) => (*phase, *fault),
        (None, Some(own)) if own == answered => (Phase::Header, Fault::Relayed),
        _ => (Phase::Unspecified, Fault::Unspecified),
    };
    let stamp = ["timeStamp", "time"].iter().find_map(|name| micros(text(&fields, name)));
    let uri = text(properties, "requestUri");
    Some(Answer {
        at_us: stamp,
        instance: text(&fields, "resourceId").rsplit('/').next().unwrap_or("").to_owned(),
        host: text(properties, "host").to_owned(),
        path: uri.split(['?', '#']).next().unwrap_or("").to_owned(),
        method: text(properties, "httpMethod").to_owned(),
        status: answered,
        endpoint: text(properties, "serverRouted").to_owned(),
        upstream: text(properties, "backendPoolName").to_owned(),
        elapsed_ms: seconds_ms(text(properties, "serverResponseLatency")),
        felt: failing(answered).then_some(felt),
        reason: reason.trim_start_matches("ERRORINFO_").to_owned(),
    })
}
