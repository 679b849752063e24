//! The list of incidents and the page of one.

use std::collections::BTreeMap;

use askama::Template;
use jiff::{SignedDuration, Timestamp};
use why502_proto::v1;

use super::{Chrome, Moment};
use crate::text::explanation::summary;
use crate::text::told::told;
use crate::text::{moment, words};

/// Hosts beside each other; more share the last lane.
const LANES_MAX: usize = 4;
/// What is shown of a host around an incident.
const AROUND: SignedDuration = SignedDuration::from_secs(60);

#[derive(Template)]
#[template(path = "incidents.html")]
pub(super) struct ListPage {
    chrome: Chrome,
    open: Vec<Row>,
    resolved: Vec<Row>,
    hosts: Vec<Watched>,
}

struct Row {
    id: String,
    headline: String,
    state: String,
    /// The class that colours it; the words beside it say the same.
    look: &'static str,
    sure: String,
    predicted: bool,
    root_cause: String,
    path: String,
    count: String,
    since: Option<Moment>,
    resolved: Option<Moment>,
}

struct Watched {
    name: String,
    fine: bool,
    note: String,
}

pub(super) fn list(
    chrome: Chrome,
    open: &[v1::Explanation],
    resolved: &[v1::Explanation],
    hosts: &[v1::Host],
    now: Timestamp,
) -> ListPage {
    // What fails now stands before what would.
    let (observed, predicted): (Vec<_>, Vec<_>) =
        open.iter().partition(|explanation| explanation.kind != "predicted");
    let open = observed.into_iter().chain(predicted).map(|of| row(of, now)).collect();
    let resolved = resolved.iter().map(|of| row(of, now)).collect();
    ListPage { chrome, open, resolved, hosts: hosts.iter().map(watched).collect() }
}

fn watched(host: &v1::Host) -> Watched {
    let blind = host.sources.iter().filter(|source| !source.seeing).count();
    let note = match (host.state.as_str(), blind) {
        ("connected", 0) => "sees everything".to_owned(),
        ("connected", blind) => format!("{} blind", words::counted(blind as u64, "source")),
        (state, _) => state.to_owned(),
    };
    Watched { name: host.host.clone(), fine: host.state == "connected" && blind == 0, note }
}

fn row(explanation: &v1::Explanation, now: Timestamp) -> Row {
    let symptom = explanation.symptom.clone().unwrap_or_default();
    let predicted = explanation.kind == "predicted";
    let known = explanation.verdict == "explained";
    let look = match explanation.confidence.as_str() {
        _ if !known => "unknown",
        "proven" => "proven",
        _ => "likely",
    };
    let status = match symptom.status {
        0 => " failed".to_owned(),
        status => format!(" answered {status}"),
    };
    let count = if predicted {
        "nothing has failed yet, ".to_owned()
    } else {
        format!("{}{status}, ", words::counted(symptom.count, "request"))
    };
    let headline = match explanation.headline.as_str() {
        "" => words::path(explanation),
        headline => headline.to_owned(),
    };
    let since = if predicted { "" } else { symptom.first.as_str() };
    Row {
        id: explanation.incident.clone(),
        headline,
        state: explanation.state.clone(),
        look,
        sure: if known { explanation.confidence.clone() } else { "cause not known".to_owned() },
        predicted,
        root_cause: explanation.root_cause.clone(),
        path: words::path(explanation).replace("->", "→"),
        count,
        since: Moment::read(since, now).or_else(|| Moment::read(&explanation.opened, now)),
        resolved: Moment::read(&explanation.resolved, now),
    }
}

#[derive(Template)]
#[template(path = "incident.html")]
pub(super) struct IncidentPage {
    chrome: Chrome,
    row: Row,
    known: bool,
    summary: String,
    /// Further routes on which it shows.
    routes: Vec<String>,
    last: Option<Moment>,
    rests_on: String,
    check: String,
    check_host: String,
    fix: String,
    lanes: Vec<String>,
    steps: Vec<Step>,
    missing: Vec<Unseen>,
    ruled_out: Vec<Note>,
    also: Vec<Note>,
    /// Host, and the query that shows the time around the incident.
    looked_at: Vec<(String, String)>,
}

/// One box on the way from the failed request to the root.
struct Step {
    number: usize,
    lane: usize,
    host: String,
    at: Option<Moment>,
    gap: String,
    because: bool,
    text: String,
    quote: String,
    cause: String,
    confidence: String,
    weaker: bool,
    root: bool,
    facts: Vec<Fact>,
}

struct Fact {
    id: String,
    /// "" where it was not found.
    text: String,
}

struct Unseen {
    what: String,
    since: Option<Moment>,
    text: String,
    causes: Vec<String>,
}

struct Note {
    cause: String,
    confidence: String,
    text: String,
    facts: Vec<Fact>,
}

type Facts = BTreeMap<String, v1::TimelineEntry>;

pub(super) fn page(
    chrome: Chrome,
    of: &v1::Explanation,
    facts: &Facts,
    now: Timestamp,
) -> IncidentPage {
    let symptom = of.symptom.clone().unwrap_or_default();
    let lanes = lanes(of);
    let known = of.verdict == "explained";
    let rests_on = match words::rests_on(&of.confidence) {
        words if known && !words.is_empty() => {
            let (first, rest) = of.confidence.split_at(1);
            format!("{}{rest}: {words}.", first.to_uppercase())
        }
        _ => String::new(),
    };
    IncidentPage {
        chrome,
        row: row(of, now),
        known,
        summary: summary(of, &symptom, now).replace("->", "→"),
        routes: of.routes.iter().filter(|route| **route != of.route).cloned().collect(),
        last: Moment::read(&symptom.last, now),
        rests_on,
        check: of.check.clone(),
        check_host: of.check_host.clone(),
        fix: of.fix.clone(),
        steps: steps(of, &symptom, &lanes, facts, now),
        lanes,
        missing: of.missing.iter().map(|missing| unseen(missing, now)).collect(),
        ruled_out: of.ruled_out.iter().map(|link| note(link, facts)).collect(),
        also: of.also.iter().map(|candidate| considered(candidate, facts)).collect(),
        looked_at: looked_at(of, &symptom, now),
    }
}

/// The hosts in order of the chain, the gateway first. Beyond the bound they share one lane.
fn lanes(of: &v1::Explanation) -> Vec<String> {
    let mut lanes = vec![of.gateway.clone()];
    for link in &of.chain {
        if !lanes.contains(&link.host) {
            lanes.push(link.host.clone());
        }
    }
    if lanes.len() > LANES_MAX {
        lanes.truncate(LANES_MAX - 1);
        lanes.push("other hosts".to_owned());
    }
    lanes
}

fn steps(
    of: &v1::Explanation,
    symptom: &v1::Symptom,
    lanes: &[String],
    facts: &Facts,
    now: Timestamp,
) -> Vec<Step> {
    let predicted = of.kind == "predicted";
    let text = if predicted {
        format!("A request to {} would fail here", of.endpoint)
    } else {
        words::felt(symptom)
    };
    let mut steps = vec![Step {
        number: 0,
        lane: 0,
        host: of.gateway.clone(),
        at: Moment::read(&symptom.first, now),
        gap: if predicted { String::new() } else { "failed request".to_owned() },
        because: false,
        text,
        quote: symptom.message.clone(),
        cause: String::new(),
        confidence: String::new(),
        weaker: false,
        root: false,
        facts: vec![],
    }];
    let mut later = moment::parse(&symptom.first);
    for (at, link) in of.chain.iter().enumerate() {
        let lane = lanes.iter().position(|lane| *lane == link.host).unwrap_or(lanes.len() - 1);
        let when = moment::parse(&link.at);
        steps.push(Step {
            number: at + 1,
            lane,
            host: link.host.clone(),
            at: Moment::read(&link.at, now),
            gap: gap(when, later),
            because: true,
            text: told(link),
            quote: String::new(),
            cause: link.cause.clone(),
            weaker: !link.confidence.is_empty() && link.confidence != "proven",
            confidence: link.confidence.clone(),
            root: of.verdict == "explained" && at + 1 == of.chain.len(),
            facts: cited(&link.facts, facts),
        });
        later = when.or(later);
    }
    steps
}

/// How long before its effect a cause was seen. Clocks of two hosts may differ by a little.
fn gap(at: Option<Timestamp>, effect: Option<Timestamp>) -> String {
    let (Some(at), Some(effect)) = (at, effect) else { return String::new() };
    let gap = effect.duration_since(at);
    match gap.as_millis() {
        0 => "same moment".to_owned(),
        1.. => format!("{} earlier", moment::span(gap)),
        _ => format!("seen {} later", moment::span(gap)),
    }
}

fn cited(ids: &[String], facts: &Facts) -> Vec<Fact> {
    let text = |entry: &v1::TimelineEntry| {
        let at = moment::parse(&entry.at).map(moment::clock_ms).unwrap_or_default();
        format!("{at} {} {} {}", entry.host, entry.kind, entry.text)
    };
    let fact =
        |id: &String| Fact { id: id.clone(), text: facts.get(id).map(text).unwrap_or_default() };
    ids.iter().map(fact).collect()
}

fn note(link: &v1::Link, facts: &Facts) -> Note {
    Note {
        cause: link.cause.clone(),
        confidence: link.confidence.clone(),
        text: link.text.clone(),
        facts: cited(&link.facts, facts),
    }
}

fn considered(candidate: &v1::Candidate, facts: &Facts) -> Note {
    Note {
        cause: candidate.cause.clone(),
        confidence: candidate.confidence.clone(),
        text: candidate.text.clone(),
        facts: cited(&candidate.facts, facts),
    }
}

fn unseen(missing: &v1::Missing, now: Timestamp) -> Unseen {
    let what = match (missing.source.as_str(), missing.host.as_str()) {
        ("agent", host) => format!("{host}: no agent"),
        (source, "") => source.to_owned(),
        (source, host) => format!("{host}: {}", source.replace('_', " ")),
    };
    Unseen {
        what,
        since: Moment::read(&missing.since, now),
        text: missing.text.clone(),
        causes: missing.causes.clone(),
    }
}

fn looked_at(of: &v1::Explanation, symptom: &v1::Symptom, now: Timestamp) -> Vec<(String, String)> {
    let chain = of.chain.iter().filter_map(|link| moment::parse(&link.at));
    let first = moment::parse(&symptom.first).or_else(|| moment::parse(&of.opened));
    let from = chain.chain(first).min().unwrap_or(now);
    let until = first.unwrap_or(from).max(from);
    // A chain may begin days ago; what is near the failure tells more.
    let from = from.max(until.saturating_sub(SignedDuration::from_mins(15)).unwrap_or(from));
    let since = from.saturating_sub(AROUND).unwrap_or(from);
    let until = until.saturating_add(AROUND).unwrap_or(until);
    let query = format!("?since={since:.0}&until={until:.0}");
    of.hosts.iter().map(|host| (host.clone(), query.clone())).collect()
}
