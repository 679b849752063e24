//! What operators ask the collector from a terminal. Everything but the catalogue comes over HTTP,
//! so it works from any machine that can reach the collector.
//!
//! Exit codes: 0 the command worked (also when the answer is "not known" or "nothing is wrong"), 64
//! wrong usage, 65 input that is not understood, 66 no such thing, 69 the collector cannot be
//! reached or cannot answer, 74 output failed, 76 it speaks otherwise, 78 a certificate file is no
//! good.

use std::io;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};

mod client;
mod decode;
mod error;
mod explain;
mod hosts;
mod incidents;
mod output;
mod rules;
mod timeline;
mod tls;
mod watch;

#[cfg(test)]
mod tests;

use error::CliError;
use output::Output;

/// The operator's verbs of `why502`.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Why does the gateway answer 502?
    ///
    /// Without arguments: the newest open incident. With an id: that incident. With --gateway,
    /// --route, --endpoint or --at: what that shows, incident or not.
    Explain(explain::Arguments),
    /// List incidents: what fails, what would fail, and why
    Incidents(incidents::Arguments),
    /// Show facts in order of time
    Timeline(timeline::Arguments),
    /// Show the hosts, and what each of them cannot see
    Hosts(hosts::Arguments),
    /// Show incidents live, as they open, change and resolve
    Watch(watch::Arguments),
    /// What do these gateway logs say? Needs no agent and no collector
    ///
    /// Reads logs of any gateway that why502 knows, from files (also .gz) or standard input, and
    /// tells for each kind of failure how often, where, what the gateway felt, which root causes
    /// fit, and the check that separates them. Exits with 0 when all was read, 65 when no line is
    /// one of a gateway's, 66 when a file could not be read (the others were), 130 after Ctrl-C,
    /// which shows what was read so far.
    Decode(decode::Arguments),
    /// Show the causes that why502 knows; needs no collector
    Rules(rules::Arguments),
}

/// Where the collector is, and how to write.
#[derive(Args, Clone, Debug)]
struct Common {
    /// Address of the collector
    #[arg(long, env = "WHY502_URL", default_value = "http://127.0.0.1:8503", value_name = "URL")]
    url: String,
    /// How to write the answer; json is what the HTTP API says
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    tls: tls::TlsFiles,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Runs a verb and writes its answer to standard output; errors go to standard error and end with
/// what to do.
pub fn run(command: Command) -> ExitCode {
    let result = match command {
        Command::Explain(arguments) => explain::run(&arguments, &mut Output::stdout()),
        Command::Incidents(arguments) => incidents::run(&arguments, &mut Output::stdout()),
        Command::Timeline(arguments) => timeline::run(&arguments, &mut Output::stdout()),
        Command::Hosts(arguments) => hosts::run(&arguments, &mut Output::stdout()),
        Command::Watch(arguments) => watch::run(&arguments, &mut Output::stdout()),
        Command::Decode(arguments) => decode::run(&arguments, &mut Output::stdout()),
        Command::Rules(arguments) => rules::run(&arguments, &mut Output::stdout()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever read has seen enough (`why502 timeline | head`).
        Err(CliError::Write(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            output::complain(&error);
            error.exit_code()
        }
    }
}
