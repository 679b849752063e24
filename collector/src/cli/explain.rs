//! `why502 explain`: the answer that everything else is for.

use why502_proto::v1;

use super::client::{Client, segment};
use super::error::CliError;
use super::output::Output;
use super::{Common, Format};
use crate::text::{explanation, hang, words};

#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Id of an incident, as `why502 incidents` shows it
    #[arg(conflicts_with_all = ["gateway", "route", "endpoint", "at"])]
    incident: Option<String>,
    /// Host of the gateway; may be left out where there is one
    #[arg(long, value_name = "HOST")]
    gateway: Option<String>,
    /// Route of the gateway, as `why502 incidents` shows it
    #[arg(long)]
    route: Option<String>,
    /// Address that the gateway sends requests to
    #[arg(long, value_name = "ADDRESS")]
    endpoint: Option<String>,
    /// A moment: 2026-11-24T12:50:00Z, or 10m for ten minutes ago
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(arguments: &Arguments, out: &mut Output<'_>) -> Result<(), CliError> {
    let client = Client::new(&arguments.common)?;
    let given = |option: &Option<String>| option.clone().unwrap_or_default();
    let question = [
        ("gateway", given(&arguments.gateway)),
        ("route", given(&arguments.route)),
        ("endpoint", given(&arguments.endpoint)),
        ("at", given(&arguments.at)),
    ];
    let (answer, more) = match &arguments.incident {
        Some(id) => (client.message(&format!("/api/v1/incidents/{}", segment(id)), &[])?, 0),
        None if question.iter().any(|(_, value)| !value.is_empty()) => {
            let query = question.each_ref().map(|(name, value)| (*name, value.as_str()));
            (client.message("/api/v1/explain", &query)?, 0)
        }
        None => newest(&client)?,
    };
    if arguments.common.format == Format::Json {
        let json = why502_proto::to_json(&answer);
        return out.json(&json.unwrap_or_default());
    }
    out.text(&explanation(&answer, out.now(), out.paint))?;
    match more {
        0 => Ok(()),
        more => {
            let more = words::counted(more, "more open incident");
            out.text(&format!("\n{more}: why502 incidents\n"))
        }
    }
}

/// The newest open incident, one that was observed before one that is predicted, and how many others there are; or
/// that nothing is wrong, and what is watched.
fn newest(client: &Client) -> Result<(v1::Explanation, u64), CliError> {
    let list: v1::ListIncidentsResponse =
        client.message("/api/v1/incidents", &[("state", "open")])?;
    let open = list.incidents;
    let more = open.len().saturating_sub(1) as u64;
    let observed = open.iter().find(|explanation| explanation.kind != "predicted");
    if let Some(found) = observed.or(open.first()) {
        return Ok((found.clone(), more));
    }
    let hosts: v1::ListHostsResponse = client.message("/api/v1/hosts", &[])?;
    Ok((nothing_wrong(&hosts.hosts), 0))
}

pub(super) fn nothing_wrong(hosts: &[v1::Host]) -> v1::Explanation {
    let blind = hosts.iter().flat_map(|host| &host.sources).filter(|source| !source.seeing).count();
    let headline = match (hosts.len(), blind) {
        (0, _) => {
            "Nothing can be seen: no agent has reported yet. Start one on each gateway and on \
                   each host behind it: why502-agent run --collector URL"
                .to_owned()
        }
        (watched, 0) => {
            format!(
                "Nothing is wrong, as far as {} can see.",
                words::counted(watched as u64, "host")
            )
        }
        (watched, blind) => format!(
            "Nothing is wrong, as far as {} can see; {} blind, see why502 hosts.",
            words::counted(watched as u64, "host"),
            words::counted(blind as u64, "source"),
        ),
    };
    let hosts = hosts.iter().map(|host| host.host.clone()).collect();
    v1::Explanation { headline, hosts, ..v1::Explanation::default() }
}

/// One line for a list: state, headline, how sure.
pub(super) fn line(explanation: &v1::Explanation, lead: &str, out: &Output<'_>) -> String {
    let sure = match (explanation.verdict.as_str(), explanation.kind.as_str()) {
        ("unknown", _) => "not known",
        (_, "predicted") => "would fail",
        _ => explanation.confidence.as_str(),
    };
    hang(lead, &format!("{} [{sure}]", explanation.headline), out.paint)
}
