//! One scenario, from boot to judgement.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use crate::client::{Client, unix_us};
use crate::install::{self, Build};
use crate::judge::{self, Outcome, Seen};
use crate::lab::{Lab, LabError};
use crate::scenario::{CLIENT, COLLECTOR, Scenario};
use crate::view::{self, Follow, Look};

/// Starting a few units takes seconds; what takes longer than this hangs.
const SCRIPT_MAX: Duration = Duration::from_secs(120);
/// From the end of `setup` to the first 200.
const HEALTHY_MAX: Duration = Duration::from_secs(20);
/// From the start of the agents until all have said what they see.
const AGENTS_MAX: Duration = Duration::from_secs(20);
/// The explanation grows as the words arrive: journald alone wakes its readers 0.4 s late.
const SETTLE: Duration = Duration::from_secs(2);
/// How often a script is asked whether it ended.
const SCRIPT_LOOK: Duration = Duration::from_millis(10);

/// How scenarios are run.
#[derive(Clone, Debug)]
pub struct Options {
    /// Agent and collector under test; `None`: only hosts, scripts and client are tried.
    pub build: Option<Build>,
    /// The hosts stay up.
    pub keep: bool,
}

/// Why a scenario could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The hosts.
    #[error("hosts")]
    Lab(#[from] LabError),
    /// A file or process.
    #[error("{what}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A script ended with an error.
    #[error("{script} {how}: {said}")]
    Script {
        /// "setup" or "break".
        script: &'static str,
        /// Its status.
        how: String,
        /// The end of what it wrote.
        said: String,
    },
    /// There was nothing to break.
    #[error("{url} did not answer 200 before `break`: {last}")]
    NeverHealthy {
        /// What was requested.
        url: String,
        /// The last answer.
        last: String,
    },
    /// Agent or collector did not start.
    #[error("{0}")]
    Install(#[from] install::InstallError),
}

/// Runs one scenario and judges it. Never fails: what could not be run says so.
pub fn run(scenario: &Scenario, options: &Options) -> Outcome {
    match try_run(scenario, options) {
        Ok(outcome) => outcome,
        Err(error) => Outcome::skipped(scenario, chain_of(&error)),
    }
}

/// An error with all its sources, in one line.
pub fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}

fn try_run(scenario: &Scenario, options: &Options) -> Result<Outcome, RunError> {
    let io = |what| move |source| RunError::Io { what, source };
    progress(scenario, "booting");
    let mut names: Vec<&str> = scenario.hosts.iter().map(String::as_str).collect();
    names.extend([CLIENT, COLLECTOR]);
    let mut lab = Lab::boot(&names, |layer| match &options.build {
        Some(build) => install::dress(layer, build, &names),
        None => Ok(()),
    })?;
    if options.keep {
        lab.keep();
        progress(
            scenario,
            &format!("hosts stay up as {}: {}", lab.name(), lab.exec_path().display()),
        );
    }
    progress(scenario, "setting up");
    script(scenario, &lab, "setup")?;
    let (Some(client_host), Some(collector)) = (lab.host(CLIENT), lab.host(COLLECTOR)) else {
        return Ok(Outcome::skipped(scenario, "no client".to_owned()));
    };
    if options.build.is_some() {
        install::start(&lab, scenario.agents(), &scenario.blind, AGENTS_MAX)?;
    }
    let log = lab.dir().join("requests.jsonl");
    let mut client = Client::start(client_host, &scenario.url, &scenario.requests, log)
        .map_err(io("start the client"))?;
    wait_healthy(scenario, &client)?;
    let dry = options.build.is_none();
    let mut seen = Seen { dry, healthy_us: now_us(), ..Seen::default() };
    let follow = match options.build {
        Some(_) => Some(Follow::start(collector).map_err(io("follow the collector"))?),
        None => None,
    };
    // One more healthy second, in which nothing may be said.
    thread::sleep(Duration::from_secs(1));
    seen.broken_us = now_us();
    progress(scenario, "breaking");
    client.load(client_host, &scenario.url, &scenario.requests, scenario.load);
    script(scenario, &lab, "break")?;
    match &follow {
        None => wait_broken(scenario, &client, seen.broken_us),
        Some(follow) => {
            wait_answer(scenario, &client, follow, seen.broken_us);
            seen.judged_us = now_us();
            seen.looks = follow.looks();
            progress(scenario, "judging");
            seen.store = view::store(collector, &scenario.hosts).map_err(io("read the store"))?;
        }
    }
    seen.requests = client.requests();
    let mut outcome = judge::judge(scenario, &seen);
    if !outcome.ok() && !seen.dry {
        let kept = keep_evidence(scenario, &seen).map_err(io("keep the evidence"))?;
        outcome.problems.push(format!("see {}", kept.display()));
    }
    Ok(outcome)
}

fn wait_healthy(scenario: &Scenario, client: &Client) -> Result<(), RunError> {
    let healthy = client.wait(0, HEALTHY_MAX, |request| request.status == 200);
    if healthy.is_some() {
        return Ok(());
    }
    let last = client.requests().last().map_or_else(
        || "no request ended".to_owned(),
        |request| format!("{:03} {}", request.status, request.error),
    );
    Err(RunError::NeverHealthy { url: scenario.url.clone(), last })
}

/// Without a collector: until the client sees what it should.
fn wait_broken(scenario: &Scenario, client: &Client, broken_us: i64) {
    let within = Duration::from_secs(scenario.within_s);
    let wanted = |request: &crate::client::Request| match scenario.expect_status {
        Some(status) => request.status == status,
        None => request.failed(),
    };
    client.wait(broken_us, within, wanted);
}

/// Until the explanation is there and had the time to grow, or `within_s` has passed.
fn wait_answer(scenario: &Scenario, client: &Client, follow: &Follow, broken_us: i64) {
    let within = Duration::from_secs(scenario.within_s);
    if scenario.is_control() {
        follow.wait(within, |look| look.at_us < broken_us && !look.incidents.is_empty());
        return;
    }
    let deadline = Instant::now() + within;
    progress(scenario, "waiting for the explanation");
    wait_broken(scenario, client, broken_us);
    let answered = |look: &Look| {
        let answer = judge::choose(scenario, look, broken_us);
        answer.is_some_and(|e| scenario.is_unknowable() || e.verdict == "explained")
    };
    if follow.wait(deadline.saturating_duration_since(Instant::now()), answered) {
        thread::sleep(SETTLE);
    }
}

/// Runs one of the scenario's scripts, outside of the hosts.
fn script(scenario: &Scenario, lab: &Lab, name: &'static str) -> Result<(), RunError> {
    let io = |source| RunError::Io { what: name, source };
    let log = lab.dir().join(format!("{name}.log"));
    let file = fs::File::create(&log).map_err(io)?;
    let mut command = Command::new("bash");
    command
        .arg(scenario.dir.join(name))
        .current_dir(&scenario.dir)
        .env("HOST_EXEC", lab.exec_path())
        .env("HOSTS", scenario.hosts.join(" "))
        .stdin(Stdio::null())
        .stdout(file.try_clone().map_err(io)?)
        .stderr(file);
    for host in lab.hosts() {
        command.env(format!("ADDR_{}", host.name().replace('-', "_")), host.address().to_string());
    }
    let mut child = command.spawn().map_err(io)?;
    let begun = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().map_err(io)? {
            break status.to_string();
        }
        if begun.elapsed() > SCRIPT_MAX {
            child.kill().map_err(io)?;
            break format!("took longer than {} s", SCRIPT_MAX.as_secs());
        }
        thread::sleep(SCRIPT_LOOK);
    };
    if status == "exit status: 0" {
        return Ok(());
    }
    Err(RunError::Script { script: name, how: status, said: tail(&log) })
}

/// The last lines of a log.
fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().rev().take(4).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}

/// All that was said and stored, for whoever mends a wrong answer: one file in the temporary directory.
fn keep_evidence(scenario: &Scenario, seen: &Seen) -> io::Result<PathBuf> {
    let dir = std::env::temp_dir().join("why502-bench");
    fs::create_dir_all(&dir)?;
    let path = dir.join(format!("{}.txt", scenario.name));
    let mut file = fs::File::create(&path)?;
    let last = seen.looks.iter().rev().find(|look| look.at_us <= seen.judged_us);
    for incident in last.map_or(&[][..], |look| &look.incidents) {
        let json = why502_proto::to_json(incident).map_err(io::Error::other)?;
        writeln!(file, "{json:#}")?;
    }
    for look in &seen.looks {
        let offset_ms = (look.at_us - seen.broken_us) / 1000;
        for said in &look.incidents {
            let last = said.symptom.as_ref().map_or("", |symptom| symptom.last.as_str());
            let answer = format!("{} {} {}", said.state, said.root_cause, said.confidence);
            writeln!(file, "look {offset_ms:+}: said of {}: {answer}, {last}", said.endpoint)?;
        }
    }
    let mut facts: Vec<_> = seen.store.facts.iter().collect();
    facts.sort_by_key(|(_, fact)| fact.at_us);
    for (id, fact) in facts {
        let seq = id.rsplit('/').next().unwrap_or("");
        let offset_ms = (fact.at_us - seen.broken_us) / 1000;
        writeln!(file, "{offset_ms:+} ms {} {seq} {} {}", fact.host, fact.kind, fact.text)?;
    }
    Ok(path)
}

fn now_us() -> i64 {
    unix_us(SystemTime::now())
}

/// Tells the waiting person where it is.
pub fn progress(scenario: &Scenario, what: &str) {
    // Nobody may be there to read it.
    let _ = writeln!(io::stderr(), "         {}: {what}", scenario.name);
}
