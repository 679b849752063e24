//! `why502 hosts`: who reports, and what each of them cannot see.

use jiff::Timestamp;
use why502_proto::v1;

use super::client::Client;
use super::error::CliError;
use super::output::{Output, table};
use super::{Common, Format};
use crate::text::{Paint, clean, hang, moment, words};

#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(arguments: &Arguments, out: &mut Output<'_>) -> Result<(), CliError> {
    let client = Client::new(&arguments.common)?;
    let json = client.get("/api/v1/hosts", &[])?;
    let answer: v1::ListHostsResponse = client.read(&json)?;
    if arguments.common.format == Format::Json {
        return out.json(&json);
    }
    if answer.hosts.is_empty() {
        let text = super::explain::nothing_wrong(&[]).headline;
        return out.text(&hang("", &text, out.paint));
    }
    out.text(&text(&answer.hosts, out.now(), out.paint))
}

/// A line for each host, and below it what it cannot see and how to let it.
pub(super) fn text(hosts: &[v1::Host], now: Timestamp, paint: Paint) -> String {
    let rows: Vec<Vec<String>> = hosts.iter().map(|host| row(host, now)).collect();
    let mut text = String::new();
    for (host, line) in hosts.iter().zip(table(&rows)) {
        let line = match host.state.as_str() {
            "connected" => paint.bold(&line),
            _ => paint.red(&line),
        };
        text += &format!("{line}\n");
        let seeing = host.sources.iter().filter(|source| source.seeing).map(source_name);
        let seeing: Vec<String> = seeing.collect();
        if !seeing.is_empty() {
            text += &hang("  sees   ", &seeing.join(", "), paint);
        }
        for source in host.sources.iter().filter(|source| !source.seeing) {
            let mut what = source_name(source);
            if let Some(since) = moment::parse(&source.since) {
                what += &format!(" since {} UTC", moment::clock(since, now));
            }
            if !source.reason.is_empty() {
                what += &format!(": {}", source.reason);
            }
            text += &paint.yellow(hang("  blind  ", &what, paint).trim_end());
            text.push('\n');
            if !source.grant.is_empty() {
                text += &hang("         ", &format!("to let it see: {}", source.grant), paint);
            }
        }
    }
    text
}

fn row(host: &v1::Host, now: Timestamp) -> Vec<String> {
    let seen = moment::parse(&host.last_seen).map(|at| moment::ago(at, now)).unwrap_or_default();
    let stream = if host.tls { "TLS" } else { "no TLS" };
    let cells = [
        host.host.clone(),
        host.state.clone(),
        format!("heard {seen}"),
        format!("agent {}", host.agent_version),
        stream.to_owned(),
        words::counted(host.facts, "fact"),
        format!("clock {}", words::clock(host)),
        host.addresses.join(" "),
    ];
    cells.map(|cell| clean(&cell)).to_vec()
}

fn source_name(source: &v1::HostSource) -> String {
    clean(&words::source(source))
}
