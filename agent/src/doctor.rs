//! One look at this host: what a gateway here would fail on, without a collector and without a failed request.
//!
//! All sources start once; when each has said whether it sees, the engine of the collector runs over what they told. An
//! endpoint is good only where the sources that would show its fault were seeing.

mod report;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use why502_explain::{Address, Question, Seen, Sight, Snapshot, explain, questions};
use why502_proto::v1::{EndpointDeclared, Source};
use why502_proto::{FactId, Kind, value_name};

use crate::clock::Moment;
use crate::config::Config;
use crate::observe::{Observations, channel};
use crate::run::{RunError, start_sources};
use crate::source::Roots;
pub use report::{Finding, Report, SourceSight, State};

/// A source that has said nothing until then cannot look.
const LOOK_MAX: Duration = Duration::from_secs(5);
/// What one source learns another looks at (sockets of a gateway): all is said when nobody has spoken for this long.
const QUIET: Duration = Duration::from_millis(400);
/// The engine tells of a fault only when it has lasted some seconds; what is true now is judged as if it did.
const LASTED_US: i64 = 10_000_000;
/// Facts that are kept: a host with more listeners, units and endpoints than that is judged by the first of them.
const FACTS_MAX: usize = 100_000;

/// Sources that are waited for.
const SOURCES: [Source; 9] = [
    Source::Process,
    Source::Unit,
    Source::Memory,
    Source::Listener,
    Source::KernelLog,
    Source::Journal,
    Source::Gateway,
    Source::Host,
    Source::Network,
];

/// Looks, and judges what it saw. Within a `tokio::task::LocalSet`.
///
/// # Errors
/// If the sources cannot be started.
pub async fn look(config: &Config) -> Result<Report, RunError> {
    let (observer, observations) = channel();
    start_sources(&Roots::default(), &observer, &config.endpoints)?;
    let host = config.host_name();
    let facts = collect(observations, &host).await;
    let now_us = Moment::now().realtime_us + LASTED_US;
    Ok(judge(&host, &Snapshot::new(facts, now_us)))
}

async fn collect(mut observations: Observations, host: &str) -> Vec<Seen> {
    let deadline = Instant::now() + LOOK_MAX;
    let mut facts: Vec<Seen> = Vec::new();
    let mut said: Vec<Source> = Vec::new();
    while facts.len() < FACTS_MAX {
        let quiet = if said.len() == SOURCES.len() { Instant::now() + QUIET } else { deadline };
        let Ok(Some(observed)) = timeout_at(quiet.min(deadline), observations.next()).await else {
            break;
        };
        let Some(kind) = observed.kind else { continue };
        if let Some(source) = speaks_for(&kind)
            && !said.contains(&source)
        {
            said.push(source);
            progress(said.len());
        }
        let seq = facts.len() as u64 + 1;
        facts.push(Seen {
            id: FactId { host: host.to_owned(), boot: "now".to_owned(), seq },
            at_us: observed.at.realtime_us,
            tolerance_us: 0,
            boottime_us: observed.at.boottime_us,
            kind,
        });
    }
    progress(0);
    facts
}

/// The source that says with this fact how well it sees as a whole.
fn speaks_for(kind: &Kind) -> Option<Source> {
    match kind {
        Kind::SourceSeeing(seeing) if seeing.scope.is_empty() => Some(seeing.source()),
        Kind::SourceBlinded(blinded) if blinded.scope.is_empty() => Some(blinded.source()),
        _ => None,
    }
}

/// On a terminal: how many sources have looked. 0 clears the line.
fn progress(said: usize) {
    let mut terminal = std::io::stderr();
    if terminal.is_terminal() {
        let text = if said == 0 {
            String::new()
        } else {
            format!("looking: {said} of {} sources", SOURCES.len())
        };
        let _ = write!(terminal, "\r{text:40}\r").and_then(|()| terminal.flush());
    }
}

/// Judges every endpoint that a gateway of this host declares, or that failed.
fn judge(host: &str, snapshot: &Snapshot) -> Report {
    let findings =
        questions(snapshot).iter().map(|question| find(host, snapshot, question)).collect();
    Report { host: host.to_owned(), findings, sources: sights(snapshot) }
}

fn place(declared: &EndpointDeclared) -> String {
    if declared.file.is_empty() {
        return "named for a gateway that cannot be read".to_owned();
    }
    format!("{}:{}", declared.file, declared.line)
}

fn find(host: &str, snapshot: &Snapshot, question: &Question) -> Finding {
    let declared = declaration(snapshot, question);
    let mut finding = Finding {
        route: question.route.clone(),
        endpoint: question.endpoint.clone(),
        place: declared.map(place).unwrap_or_default(),
        ..Finding::default()
    };
    if let Some(explanation) = explain(snapshot, question) {
        let known = explanation.verdict == "explained";
        finding.state = if known || explanation.missing.is_empty() {
            State::Problem
        } else {
            State::CannotTell
        };
        finding.text = explanation.headline;
        finding.root_cause = explanation.root_cause;
        finding.check = explanation.check;
        finding.fix = explanation.fix;
        finding.missing = explanation
            .missing
            .into_iter()
            .map(|m| format!("{} {}: {}", m.host, m.source, m.text))
            .collect();
        return finding;
    }
    let Some(declared) = declared else { return finding };
    let addresses: Vec<Address<'_>> =
        declared.addresses.iter().filter_map(|a| Address::parse(a)).collect();
    if declared.down {
        finding.text = "marked down in the configuration".to_owned();
    } else if addresses.is_empty() {
        finding.state = State::CannotTell;
        finding.text =
            "the name does not resolve here; the gateway resolves it when a request comes"
                .to_owned();
    } else if addresses.iter().any(|address| snapshot.owner(host, address).is_none()) {
        finding.state = State::Elsewhere;
        finding.text = "on another host, not seen from here".to_owned();
    } else {
        finding.missing = blind(host, snapshot, &[Source::Listener]);
        let deaf = addresses.iter().find(|address| !is_listened_on(host, snapshot, address));
        finding.state = match deaf {
            _ if !finding.missing.is_empty() => State::CannotTell,
            Some(_) => State::Problem,
            None => State::Good,
        };
        if finding.state == State::Problem {
            // Nothing that the engine could trace was seen to end: it never ran, or has been gone for long.
            finding.text = format!("nothing on this host listens on {}", question.endpoint);
            finding.check = "ss -lntpx".to_owned();
            finding.fix = "start the service, or correct the address".to_owned();
        }
    }
    finding
}

fn is_listened_on(host: &str, snapshot: &Snapshot, wanted: &Address<'_>) -> bool {
    snapshot.states(host, "listener", snapshot.now_us()).any(|fact| match &fact.kind {
        Kind::ListenerOpened(listener) if listener.netns == 0 => Address::parse(&listener.address)
            .is_some_and(|own| own.covers(wanted, listener.v6_only)),
        _ => false,
    })
}

fn declaration<'a>(snapshot: &'a Snapshot, question: &Question) -> Option<&'a EndpointDeclared> {
    snapshot.states(&question.gateway, "endpoint", snapshot.now_us()).find_map(|fact| {
        match &fact.kind {
            Kind::EndpointDeclared(d)
                if d.route == question.route && d.endpoint == question.endpoint =>
            {
                Some(d)
            }
            _ => None,
        }
    })
}

/// Which of the sources cannot see, and what would let them.
fn blind(host: &str, snapshot: &Snapshot, sources: &[Source]) -> Vec<String> {
    let mut blind = Vec::new();
    for source in sources {
        let why = match snapshot.sight(host, *source, snapshot.now_us()) {
            Sight::Seeing(_) => continue,
            Sight::Blind(Seen { kind: Kind::SourceBlinded(fact), .. }) if fact.grant.is_empty() => {
                fact.reason.clone()
            }
            Sight::Blind(Seen { kind: Kind::SourceBlinded(fact), .. }) => {
                format!("{}; to mend it: {}", fact.reason, fact.grant)
            }
            _ => "it has said nothing".to_owned(),
        };
        blind.push(format!("{}: {why}", name(*source)));
    }
    blind
}

/// Every source and every part of one that has spoken for itself, in a fixed order.
fn sights(snapshot: &Snapshot) -> Vec<SourceSight> {
    let mut last: BTreeMap<(i32, String), SourceSight> = BTreeMap::new();
    for source in SOURCES {
        let silent = SourceSight {
            source: name(source),
            reason: "it has said nothing".to_owned(),
            ..SourceSight::default()
        };
        last.insert((source.into(), String::new()), silent);
    }
    for fact in snapshot.facts() {
        let (source, sight) = match &fact.kind {
            Kind::SourceSeeing(seeing) => {
                let scope = seeing.scope.clone();
                (seeing.source(), SourceSight { scope, seeing: true, ..SourceSight::default() })
            }
            Kind::SourceBlinded(blinded) => {
                let (scope, reason, grant) =
                    (blinded.scope.clone(), blinded.reason.clone(), blinded.grant.clone());
                (blinded.source(), SourceSight { scope, reason, grant, ..SourceSight::default() })
            }
            _ => continue,
        };
        last.insert(
            (source.into(), sight.scope.clone()),
            SourceSight { source: name(source), ..sight },
        );
    }
    last.into_values().collect()
}

fn name(source: Source) -> String {
    value_name(source.as_str_name(), "SOURCE")
}

#[cfg(test)]
mod tests {
    use why502_proto::FactLine;

    use super::*;

    /// Facts of host "here" and the report's state and text by endpoint.
    #[track_caller]
    fn check(facts: &str, expected: &[(&str, State)]) -> Report {
        let facts = facts.lines().map(str::trim).filter(|line| !line.is_empty()).enumerate().map(
            |(at, line)| {
                let line: FactLine = line.parse().unwrap();
                let seq = at as u64 + 1;
                Seen {
                    id: FactId { host: line.host, boot: "now".into(), seq },
                    at_us: line.offset_us,
                    tolerance_us: 0,
                    boottime_us: line.offset_us.unsigned_abs(),
                    kind: line.kind,
                }
            },
        );
        let report = judge("here", &Snapshot::new(facts.collect(), LASTED_US + 1_000_000));
        let states: Vec<_> =
            report.findings.iter().map(|f| (f.endpoint.as_str(), f.state)).collect();
        assert_eq!(states, expected, "{report}");
        report
    }

    const SEEING: &str = "T+0.000 here source_seeing source=process
        T+0.000 here source_seeing source=listener
        T+0.000 here source_seeing source=unit
        T+0.000 here source_seeing source=journal
        T+0.000 here source_seeing source=gateway
        T+0.000 here source_seeing source=memory
        T+0.000 here source_seeing source=kernel_log
        T+0.000 here source_seeing source=host
        T+0.000 here source_seeing source=network
        T+0.000 here host_address address=10.0.0.1 interface=eth0\n";

    const DECLARED: &str = "T+0.001 here endpoint_declared gateway=nginx instance=n route=:80/ \
        endpoint=127.0.0.1:8080 addresses=127.0.0.1:8080 file=/etc/nginx/nginx.conf line=7\n";

    #[test]
    fn a_port_that_nobody_listens_on_is_a_problem() {
        let report = check(&format!("{SEEING}{DECLARED}"), &[("127.0.0.1:8080", State::Problem)]);
        assert_eq!(report.exit_code(), 1);
        let text = report.to_string();
        assert!(text.contains("/etc/nginx/nginx.conf:7"), "{text}");
        assert!(text.contains("nothing on this host listens on 127.0.0.1:8080"), "{text}");
    }

    #[test]
    fn what_the_engine_knows_is_told_with_its_cause() {
        let elsewhere = "T+0.000 here listener_opened address=10.0.0.1:8080 pid=7 comm=app queue_limit=128 existing=true
            T+0.000 here listener_opened address=127.0.0.1:8080 pid=7 comm=app queue_limit=128 existing=true\n";
        let other = DECLARED.replace("127.0.0.1:", "10.0.0.1:");
        check(&format!("{SEEING}{elsewhere}{other}"), &[("10.0.0.1:8080", State::Good)]);
        let loopback = elsewhere.lines().nth(1).unwrap();
        let report =
            check(&format!("{SEEING}{loopback}\n{other}"), &[("10.0.0.1:8080", State::Problem)]);
        assert_eq!(report.findings[0].root_cause, "listener.bound_to_loopback");
    }

    #[test]
    fn a_port_that_somebody_listens_on_is_good() {
        let listens = "T+0.000 here listener_opened address=0.0.0.0:8080 pid=7 comm=app queue_limit=128 existing=true\n";
        let report =
            check(&format!("{SEEING}{listens}{DECLARED}"), &[("127.0.0.1:8080", State::Good)]);
        assert_eq!(report.exit_code(), 0);
    }

    #[test]
    fn what_a_blind_source_would_show_cannot_be_told() {
        let blind = "T+0.002 here source_blinded source=listener reason=\"no sock_diag\" grant=AF_NETLINK\n";
        let report =
            check(&format!("{SEEING}{blind}{DECLARED}"), &[("127.0.0.1:8080", State::CannotTell)]);
        assert!(report.to_string().contains("AF_NETLINK"), "{report}");
        assert_eq!(report.exit_code(), 2);
    }

    #[test]
    fn other_hosts_are_not_judged_from_here() {
        let there = DECLARED.replace("127.0.0.1", "10.0.0.9");
        let report = check(&format!("{SEEING}{there}"), &[("10.0.0.9:8080", State::Elsewhere)]);
        assert_eq!(report.exit_code(), 0);
    }

    #[test]
    fn without_sight_of_the_gateway_nothing_was_looked_at() {
        let blind = "T+0.002 here source_blinded source=gateway reason=\"cannot read /etc/nginx\" grant=x\n";
        assert_eq!(check(&format!("{SEEING}{blind}"), &[]).exit_code(), 2);
        assert_eq!(check(SEEING, &[]).exit_code(), 0, "no gateway, no problem");
    }
}
