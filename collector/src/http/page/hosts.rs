//! The hosts, what each of them cannot see, and the facts of one.

use askama::Template;
use jiff::Timestamp;
use why502_proto::v1;

use super::{Chrome, ENTRIES_MAX, Moment};
use crate::text::words;

/// What a person looks back over; the API takes any time.
const PERIODS: [&str; 4] = ["15m", "1h", "6h", "24h"];

#[derive(Template)]
#[template(path = "hosts.html")]
pub(super) struct ListPage {
    chrome: Chrome,
    hosts: Vec<HostCard>,
}

struct HostCard {
    name: String,
    connected: bool,
    state: String,
    last_seen: Option<Moment>,
    agent: String,
    clock: String,
    stream: String,
    system: String,
    addresses: Vec<String>,
    blind: Vec<SourceLine>,
    seeing: Vec<SourceLine>,
}

struct SourceLine {
    name: String,
    since: Option<Moment>,
    reason: String,
    grant: String,
}

pub(super) fn list(chrome: Chrome, hosts: &[v1::Host], now: Timestamp) -> ListPage {
    ListPage { chrome, hosts: hosts.iter().map(|host| card(host, now)).collect() }
}

fn card(host: &v1::Host, now: Timestamp) -> HostCard {
    let line = |source: &v1::HostSource| SourceLine {
        name: words::source(source),
        since: Moment::read(&source.since, now),
        reason: source.reason.clone(),
        grant: source.grant.clone(),
    };
    let (seeing, blind): (Vec<_>, Vec<_>) = host.sources.iter().partition(|source| source.seeing);
    let system: Vec<&str> = [host.distribution.as_str(), host.kernel.as_str()]
        .into_iter()
        .filter(|text| !text.is_empty())
        .collect();
    HostCard {
        name: host.host.clone(),
        connected: host.state == "connected",
        state: host.state.clone(),
        last_seen: Moment::read(&host.last_seen, now),
        agent: format!("{}, {}", host.agent_version, words::counted(host.facts, "fact")),
        clock: words::clock(host),
        stream: stream(host),
        system: if system.is_empty() { "not known".to_owned() } else { system.join(", Linux ") },
        addresses: host.addresses.clone(),
        blind: blind.into_iter().map(line).collect(),
        seeing: seeing.into_iter().map(line).collect(),
    }
}

fn stream(host: &v1::Host) -> String {
    let protection = if host.tls { "TLS" } else { "not encrypted" };
    if host.peer.is_empty() {
        protection.to_owned()
    } else {
        format!("{protection}, from {}", host.peer)
    }
}

#[derive(Template)]
#[template(path = "host.html")]
pub(super) struct TimelinePage {
    chrome: Chrome,
    host: String,
    periods: [&'static str; 4],
    since: String,
    live: bool,
    caption: String,
    entries: Vec<Line>,
}

struct Line {
    at: Moment,
    kind: String,
    text: String,
}

pub(super) fn timeline(
    chrome: Chrome,
    host: String,
    (since, until): (String, String),
    entries: &[v1::TimelineEntry],
    now: Timestamp,
) -> TimelinePage {
    let line = |entry: &v1::TimelineEntry| {
        let at = Moment::read(&entry.at, now)?;
        Some(Line { at, kind: entry.kind.clone(), text: entry.text.clone() })
    };
    // Newest first: that is where one looks, and where the page grows.
    let lines: Vec<Line> = entries.iter().rev().filter_map(line).collect();
    let count = words::counted(lines.len() as u64, "fact");
    let cut = lines.len() >= ENTRIES_MAX as usize;
    let cut = if cut { "; there are older ones, see a shorter period or the API" } else { "" };
    let period = match (since.as_str(), until.as_str()) {
        ("", "") => "of the last 15m".to_owned(),
        (since, "") => format!("since {since}"),
        ("", until) => format!("in the 15 minutes until {until}"),
        (since, until) => format!("from {since} until {until}"),
    };
    TimelinePage {
        chrome,
        host,
        periods: PERIODS,
        live: until.is_empty(),
        caption: format!("{count} {period}, newest first{cut}"),
        since: if since.is_empty() && until.is_empty() { "15m".to_owned() } else { since },
        entries: lines,
    }
}
