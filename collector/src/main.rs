//! `why502`: the collector, and what operators ask it.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use tracing::level_filters::LevelFilter;
use why502_collector::chain::chain;
use why502_collector::cli;
use why502_collector::config::{Config, Level, Overrides};
use why502_collector::serve::{self, ServeError};

/// sysexits.h, which systemd prints by name.
const EX_USAGE: u8 = 64;
const EX_DATAERR: u8 = 65;
const EX_UNAVAILABLE: u8 = 69;
const EX_SOFTWARE: u8 = 70;
const EX_IOERR: u8 = 74;
const EX_CONFIG: u8 = 78;

/// Explains why a gateway answers 502
#[derive(Debug, Parser)]
#[command(name = "why502", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the collector: take facts, explain, show
    Serve(Overrides),
    #[command(flatten)]
    Operator(cli::Command),
    /// Check the configuration, certificates included; changes nothing
    ///
    /// Exits with 0 if the collector would start with it, else with 78.
    CheckConfig(Overrides),
    /// Print completions for a shell
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Without anybody to read it the exit code remains.
            let _unread = error.print();
            return ExitCode::from(if error.use_stderr() { EX_USAGE } else { 0 });
        }
    };
    match arguments.command {
        Command::Serve(overrides) => run(&overrides),
        Command::Operator(command) => cli::run(command),
        Command::CheckConfig(overrides) => check(&overrides),
        Command::Completions { shell } => {
            let mut command = Arguments::command();
            clap_complete::generate(shell, &mut command, "why502", &mut std::io::stdout());
            ExitCode::SUCCESS
        }
        Command::Man => {
            let man = clap_mangen::Man::new(Arguments::command());
            match man.render(&mut std::io::stdout()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => fail(&error, "see where standard output goes", EX_IOERR),
            }
        }
    }
}

fn run(overrides: &Overrides) -> ExitCode {
    let config = match Config::load(overrides) {
        Ok(config) => config,
        Err(error) => return fail(&error, error.hint(), EX_CONFIG),
    };
    log(config.log);
    let state_dir = config.state_dir(|name| std::env::var(name).ok());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error, "see how many threads it may have", EX_SOFTWARE),
    };
    let served = runtime.block_on(serve::serve(config, &state_dir, |grpc, http| {
        tracing::info!("state in {}", state_dir.display());
        say(&format!("page http://{http}/  agents http://{grpc}"));
    }));
    // What a blocking read still does must not hold up the end.
    runtime.shutdown_background();
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, error.hint(), exit_code(&error)),
    }
}

fn exit_code(error: &ServeError) -> u8 {
    use why502_collector::store::StoreError;
    match error {
        ServeError::Store(StoreError::Newer { .. }) => EX_DATAERR,
        ServeError::Tls(_) => EX_CONFIG,
        ServeError::Listen { .. } | ServeError::Store(StoreError::Locked { .. }) => EX_UNAVAILABLE,
        ServeError::Ended(_) | ServeError::Signals(_) => EX_SOFTWARE,
        ServeError::Store(_) | ServeError::Damaged => EX_IOERR,
    }
}

fn check(overrides: &Overrides) -> ExitCode {
    let config = match Config::load(overrides) {
        Ok(config) => config,
        Err(error) => return fail(&error, error.hint(), EX_CONFIG),
    };
    if let Some(files) = config.tls_files()
        && let Err(error) = why502_collector::tls::Current::load(files)
    {
        let error = ServeError::Tls(error);
        return fail(&error, error.hint(), EX_CONFIG);
    }
    for warning in config.warnings() {
        say(&format!("warning: {warning}"));
    }
    say("the configuration is good");
    ExitCode::SUCCESS
}

fn log(level: Level) {
    let filter = match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    };
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt()
        .with_max_level(filter)
        .with_ansi(terminal)
        .with_writer(std::io::stderr)
        .with_target(false)
        .init();
}

#[expect(clippy::print_stdout, reason = "what the command was asked for")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "the one place where errors are told")]
fn fail(error: &dyn std::error::Error, hint: &str, code: u8) -> ExitCode {
    eprintln!("why502: {}\n{hint}", chain(error));
    ExitCode::from(code)
}
