//! `why502 watch`: incidents as they open, change and resolve, until interrupted.

use std::collections::BTreeMap;
use std::io::{BufRead, Read};
use std::time::Duration;

use serde_json::{Value, json};
use why502_proto::v1;

use super::client::Client;
use super::error::CliError;
use super::output::{Output, progress};
use super::{Common, Format, explain, timeline};
use crate::text::{clean, explanation, moment, words};

/// Between attempts to get the stream back.
const RETRY: Duration = Duration::from_secs(2);
/// An event is a message of the view; none is near that size.
const LINE_BYTES_MAX: u64 = 4 * 1024 * 1024;

#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// Facts too, as they are stored
    #[arg(long)]
    facts: bool,
    #[command(flatten)]
    common: Common,
}

/// Runs until interrupted, or until what reads the output is gone. A collector that cannot be reached at first is an
/// error; one that goes away later is waited for.
pub(super) fn run(arguments: &Arguments, out: &mut Output<'_>) -> Result<(), CliError> {
    let client = Client::new(&arguments.common)?;
    let mut watch = Watch::new(arguments.common.format == Format::Json);
    let facts = if arguments.facts { "true" } else { "" };
    let mut connected_before = false;
    loop {
        match client.stream("/api/v1/events", &[("facts", facts)]) {
            Ok(stream) => {
                if connected_before {
                    progress("connected again");
                }
                // After the stream is open, so that nothing is missed between the two.
                watch.catch_up(&client, !connected_before, out)?;
                connected_before = true;
                watch.follow(&client, stream, out)?;
                progress("the stream ended; trying again");
            }
            Err(error @ CliError::Unreachable { .. }) if connected_before => {
                tracing::debug!(%error, "not yet");
            }
            Err(error) => return Err(error),
        }
        std::thread::sleep(RETRY);
    }
}

pub(super) struct Watch {
    json: bool,
    /// What was last said of each incident.
    shown: BTreeMap<String, v1::Explanation>,
}

impl Watch {
    pub(super) fn new(json: bool) -> Self {
        Self { json, shown: BTreeMap::new() }
    }

    /// What is open already, or changed while the stream was away.
    fn catch_up(
        &mut self,
        client: &Client,
        first: bool,
        out: &mut Output<'_>,
    ) -> Result<(), CliError> {
        let list: v1::ListIncidentsResponse =
            client.message("/api/v1/incidents", &[("state", "open")])?;
        if first && !self.json {
            let text = if list.incidents.is_empty() {
                let hosts: v1::ListHostsResponse = client.message("/api/v1/hosts", &[])?;
                explain::nothing_wrong(&hosts.hosts).headline
            } else {
                words::counted(list.incidents.len() as u64, "open incident")
            };
            out.text(&format!("{}\nWatching {}; Ctrl-C ends it\n", clean(&text), client.url()))?;
        }
        for explanation in list.incidents.into_iter().rev() {
            self.incident(explanation, out)?;
        }
        Ok(())
    }

    /// Reads events until the stream ends, for whatever reason.
    fn follow(
        &mut self,
        client: &Client,
        mut stream: impl BufRead,
        out: &mut Output<'_>,
    ) -> Result<(), CliError> {
        let (mut name, mut data) = (String::new(), String::new());
        loop {
            let mut line = vec![];
            match (&mut stream).take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
                Ok(n) if n > 0 && line.ends_with(b"\n") => {}
                _ => return Ok(()),
            }
            let line = String::from_utf8_lossy(&line);
            let line = line.trim_end_matches(['\n', '\r']);
            match line.split_once(':').unwrap_or((line, "")) {
                ("event", value) => name = value.trim_start().to_owned(),
                ("data", value) => data.push_str(value.strip_prefix(' ').unwrap_or(value)),
                ("", "") if line.is_empty() => {
                    if name == "reload" {
                        progress("could not keep up: some changes were left out");
                        return Ok(());
                    }
                    self.event(client, &name, &data, out)?;
                    name.clear();
                    data.clear();
                }
                _ => {}
            }
        }
    }

    fn event(
        &mut self,
        client: &Client,
        name: &str,
        data: &str,
        out: &mut Output<'_>,
    ) -> Result<(), CliError> {
        if !["incident", "fact", "host"].contains(&name) {
            return Ok(());
        }
        let json: Value = serde_json::from_str(data).map_err(|error| CliError::Protocol {
            url: client.url().to_owned(),
            what: format!("an event that is no JSON ({error})"),
        })?;
        if name == "incident" {
            return self.incident(client.read(&json)?, out);
        }
        if self.json {
            return out.json_line(&json!({ "event": name, "data": json }));
        }
        if name == "fact" {
            let entry: v1::TimelineEntry = client.read(&json)?;
            return out.text(&timeline::line(&entry, out.paint));
        }
        Ok(())
    }

    /// As JSON every change; as text what a person would call one: another answer, not another count.
    pub(super) fn incident(
        &mut self,
        now: v1::Explanation,
        out: &mut Output<'_>,
    ) -> Result<(), CliError> {
        let before = self.shown.get(&now.incident);
        if before == Some(&now) {
            return Ok(());
        }
        if self.json {
            let data = why502_proto::to_json(&now).unwrap_or_default();
            out.json_line(&json!({ "event": "incident", "data": data }))?;
        } else if now.state == "resolved" {
            if before.is_some_and(|before| before.state != "resolved") {
                out.text(&resolved(&now, out))?;
            }
        } else if before.is_none_or(|before| answer(before) != answer(&now)) {
            let word = if before.is_none() { "" } else { "Now: " };
            out.text(&format!("\n{word}{}", explanation(&now, out.now(), out.paint)))?;
        }
        if now.state == "resolved" {
            self.shown.remove(&now.incident);
        } else {
            self.shown.insert(now.incident.clone(), now);
        }
        Ok(())
    }
}

/// What of an incident makes a person look again.
fn answer(of: &v1::Explanation) -> [&str; 6] {
    [&of.state, &of.kind, &of.verdict, &of.root_cause, &of.confidence, &of.headline]
}

fn resolved(now: &v1::Explanation, out: &Output<'_>) -> String {
    let symptom = now.symptom.clone().unwrap_or_default();
    let ends = (moment::parse(&now.opened), moment::parse(&now.resolved));
    let lasted = match ends {
        (Some(opened), Some(resolved)) => {
            format!(" after {}", moment::span(resolved.duration_since(opened)))
        }
        _ => String::new(),
    };
    let at = ends.1.map(moment::clock_ms).unwrap_or_default();
    let count = words::counted(symptom.count, "request");
    let text = format!(
        "{at}  Resolved{lasted}, {count}: {} (incident {})",
        clean(&now.headline),
        clean(&now.incident)
    );
    format!("\n{}\n", out.paint.green(&text))
}
