//! Runs scenarios on throw-away hosts and says how right the explanations were.

use std::collections::BTreeSet;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use clap::{Parser, ValueEnum};
use why502_tests::install::Build;
use why502_tests::judge::Outcome;
use why502_tests::report::{self, Report};
use why502_tests::run::{self, Options};
use why502_tests::scenario::{self, Found, Scenario};
use why502_tests::{lab, packages};

/// Break real services on real hosts, and measure how right the explanations are
///
/// Needs root. Exits with 0 if every scenario was answered rightly, 1 if not, 64 and above if it could not run.
#[derive(Debug, Parser)]
struct Args {
    /// Folder of scenarios, or one scenario; may be given several times [default: tests/bench of the repository]
    #[arg(long = "scenarios", value_name = "DIR")]
    scenarios: Vec<PathBuf>,
    /// Run only the scenario of this name; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// How to print the result
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// Leave the hosts up, and say how to enter them
    #[arg(long)]
    keep: bool,
    /// Take down hosts that an earlier run kept, and exit
    #[arg(long, value_name = "LAB")]
    remove: Option<String>,
    /// Scenarios at once
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=16))]
    jobs: u16,
    /// Print the scenarios and exit
    #[arg(long)]
    list: bool,
    /// Try hosts, scripts and client only: without agent and collector
    #[arg(long)]
    no_agent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match bench(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(Failure { code, said }) => {
            say(&said);
            ExitCode::from(code)
        }
    }
}

/// Why there is no result at all.
struct Failure {
    /// See sysexits.h.
    code: u8,
    said: String,
}

fn bench(args: &Args) -> Result<bool, Failure> {
    if let Some(name) = &args.remove {
        lab::take_down(name);
        return Ok(true);
    }
    let found = find(args)?;
    if args.list {
        let mut out = io::stdout().lock();
        for (name, scenario) in &found {
            let about = scenario.as_ref().map_or("?", |scenario| scenario.about.as_str());
            // A closed pipe ends the list, and nothing is wrong.
            let _ = writeln!(out, "{name}\t{about}");
        }
        return Ok(true);
    }
    let usage = |said: String| Failure { code: 65, said };
    let mut scenarios = Vec::new();
    for (_, scenario) in found {
        scenarios.push(scenario.map_err(|error| usage(run::chain_of(&error)))?);
    }
    lab::sweep();
    lab::stop_on_signals();
    let build = if args.no_agent { None } else { Some(build()?) };
    let wanted: BTreeSet<_> = scenarios.iter().flat_map(|s| s.packages.iter().cloned()).collect();
    let missing = packages::install(&wanted);
    let outcomes = run_all(args, &scenarios, &missing, &Options { build, keep: args.keep });
    let report = Report::new(outcomes, why502_tests::catalogue().len());
    let ok = report.ok();
    let text = match args.format {
        Format::Text => report.text(),
        Format::Json => serde_json::to_string_pretty(&report)
            .map_err(|error| Failure { code: 70, said: error.to_string() })?,
    };
    // A closed pipe does not change the result.
    let _ = writeln!(io::stdout(), "{text}");
    Ok(ok)
}

fn find(args: &Args) -> Result<Found, Failure> {
    let mut dirs = args.scenarios.clone();
    if dirs.is_empty() {
        dirs.push(Path::new(env!("CARGO_MANIFEST_DIR")).join("bench"));
    }
    let no_input = |said| Failure { code: 66, said };
    let mut found = scenario::find(&dirs).map_err(|error| no_input(run::chain_of(&error)))?;
    for only in &args.only {
        if !found.iter().any(|(name, _)| name == only) {
            return Err(no_input(format!("there is no scenario {only:?}")));
        }
    }
    found.retain(|(name, _)| args.only.is_empty() || args.only.contains(name));
    Ok(found)
}

/// The programs under test lie beside this one; where they do not, they are built.
fn build() -> Result<Build, Failure> {
    let failure = |said: String| Failure { code: 69, said };
    let me = std::env::current_exe().map_err(|error| failure(error.to_string()))?;
    let programs = me.parent().unwrap_or(Path::new(".")).to_owned();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let there = ["why502-agent", "why502"].iter().all(|name| programs.join(name).exists());
    let debug = programs.file_name().is_some_and(|name| name == "debug");
    // Under sudo the build would leave files of root in the user's target directory.
    let sudo = std::env::var_os("SUDO_UID").is_some();
    if (debug && !sudo) || !there {
        say("building agent and collector");
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "-p", "why502-agent", "-p", "why502-collector"]);
        cargo.current_dir(&repository);
        if !debug {
            let profile = programs.file_name().unwrap_or_default();
            cargo.arg("--profile").arg(profile);
        }
        let built = cargo.status().map_err(|error| failure(format!("cargo: {error}")))?;
        if !built.success() && !there {
            return Err(failure("agent and collector could not be built".to_owned()));
        }
    }
    Ok(Build { programs, packaging: repository.join("packaging") })
}

fn run_all(
    args: &Args,
    scenarios: &[Scenario],
    missing: &BTreeSet<String>,
    options: &Options,
) -> Vec<Outcome> {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    let worker = || {
        while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
            let lacks: Vec<_> =
                scenario.packages.iter().filter(|package| missing.contains(*package)).collect();
            let outcome = if lacks.is_empty() {
                run::run(scenario, options)
            } else {
                Outcome::skipped(scenario, format!("could not get {lacks:?}"))
            };
            let line = report::line(&outcome);
            match args.format {
                Format::Text => {
                    let _ = writeln!(io::stdout(), "{line}");
                }
                Format::Json => say(&line),
            }
            if let Ok(mut outcomes) = outcomes.lock() {
                outcomes.push(outcome);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..args.jobs {
            scope.spawn(worker);
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap_or_default();
    let place = |outcome: &Outcome| scenarios.iter().position(|s| s.name == outcome.name);
    outcomes.sort_by_key(place);
    outcomes
}

fn say(text: &str) {
    // Nobody may be there to read it.
    let _ = writeln!(io::stderr(), "{text}");
}
