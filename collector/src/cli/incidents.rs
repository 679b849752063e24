//! `why502 incidents`: what fails, what would fail, and why.

use why502_proto::v1;

use super::client::Client;
use super::error::CliError;
use super::explain::{line, nothing_wrong};
use super::output::Output;
use super::{Common, Format};
use crate::text::explanation::summary;
use crate::text::{clean, hang, moment};

#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Resolved ones too
    #[arg(long, conflicts_with = "state")]
    all: bool,
    /// Only those
    #[arg(long, value_parser = ["open", "resolved"])]
    state: Option<String>,
    /// Only those of this gateway
    #[arg(long, value_name = "HOST")]
    gateway: Option<String>,
    /// At most so many, newest first
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(arguments: &Arguments, out: &mut Output<'_>) -> Result<(), CliError> {
    let client = Client::new(&arguments.common)?;
    let state = match &arguments.state {
        Some(state) => state,
        None if arguments.all => "",
        None => "open",
    };
    let query = [
        ("state", state),
        ("gateway", arguments.gateway.as_deref().unwrap_or_default()),
        ("limit", &arguments.limit.to_string()),
    ];
    let json = client.get("/api/v1/incidents", &query)?;
    let list: v1::ListIncidentsResponse = client.read(&json)?;
    if arguments.common.format == Format::Json {
        return out.json(&json);
    }
    if list.incidents.is_empty() && state == "open" {
        let hosts: v1::ListHostsResponse = client.message("/api/v1/hosts", &[])?;
        let text = nothing_wrong(&hosts.hosts).headline;
        return out.text(&hang("", &text, out.paint));
    }
    if list.incidents.is_empty() {
        return out.text("There are no such incidents.\n");
    }
    for explanation in &list.incidents {
        out.text(&entry(explanation, out))?;
    }
    out.text("\nMore about one: why502 explain ID\n")
}

/// ```text
/// 7  open      12:03:04  api.service on app-1 was OOM-killed at its 512 MiB limit [proven]
///                        502 on gw-1 /api -> 10.0.0.7:8080, 142 requests since 12:03:04 UTC
/// ```
fn entry(explanation: &v1::Explanation, out: &Output<'_>) -> String {
    let now = out.now();
    let opened = moment::parse(&explanation.opened).map(|at| moment::clock(at, now));
    let id = clean(&explanation.incident);
    let state = clean(&explanation.state);
    let lead = format!("{id:<4} {state:<8}  {}  ", opened.unwrap_or_default());
    let symptom = explanation.symptom.clone().unwrap_or_default();
    let indent = " ".repeat(lead.chars().count());
    let mut text = line(explanation, &lead, out);
    let mut details = summary(explanation, &symptom, now);
    if !explanation.root_cause.is_empty() {
        details = format!("{}: {details}", explanation.root_cause);
    }
    text += &hang(&indent, &details, out.paint);
    text
}
