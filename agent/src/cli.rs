//! The verbs of `why502-agent`. Exit codes follow sysexits.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config::{Config, ConfigError};
use crate::run::{self, RunError, error_chain};
use crate::stream::{self, StreamError};
use crate::{doctor, log};

// Exit codes of sysexits.h.
const EX_USAGE: u8 = 64;
const EX_IOERR: u8 = 74;
const EX_TEMPFAIL: u8 = 75;
const EX_NOPERM: u8 = 77;
const EX_CONFIG: u8 = 78;

/// Watches this host for what makes a gateway answer 502, and streams it to the collector as typed facts
#[derive(Debug, Parser)]
#[command(name = "why502-agent", version, propagate_version = true)]
pub struct Cli {
    /// Configuration file; without it /etc/why502/agent.toml, if it is there
    #[arg(long, global = true, env = "WHY502_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where facts wait for the collector
    #[arg(long, global = true, env = "WHY502_STATE_DIR", value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Address of the collector's gRPC port
    #[arg(long, global = true, env = "WHY502_COLLECTOR", value_name = "URL")]
    collector: Option<String>,
    /// Name of this host
    #[arg(long, global = true, env = "WHY502_HOST", value_name = "NAME")]
    host: Option<String>,
    /// Bound on the facts that wait, in MiB
    #[arg(long, global = true, env = "WHY502_SPOOL_MAX_MIB", value_name = "MIB")]
    spool_max_mib: Option<u64>,
    /// Authority that signed the collector's certificate, PEM
    #[arg(long, global = true, env = "WHY502_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Certificate of this host, PEM; with --tls-key
    #[arg(long, global = true, env = "WHY502_TLS_CERT", value_name = "FILE")]
    tls_cert: Option<PathBuf>,
    /// Key of the certificate, PEM
    #[arg(long, global = true, env = "WHY502_TLS_KEY", value_name = "FILE")]
    tls_key: Option<PathBuf>,
    /// Allow http:// to other machines (test labs)
    #[arg(long, global = true, env = "WHY502_INSECURE_PLAINTEXT")]
    insecure_plaintext: bool,
    /// Where a gateway sends requests to that no agent can read: app:8080, unix:/run/app.sock (may be repeated)
    #[arg(
        long,
        global = true,
        env = "WHY502_ENDPOINTS",
        value_name = "ADDRESS",
        value_delimiter = ','
    )]
    endpoint: Vec<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Watch, and stream to the collector, until told to stop
    Run,
    /// Look at this host once: what would a gateway here fail on, and why
    ///
    /// Needs no collector. Exits with 0 if nothing is wrong, 1 if something is, 2 if it could not look everywhere.
    Doctor {
        /// How to write the report
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Show live what is seen, as text; nothing is stored or sent
    Facts {
        /// How to write each fact
        #[arg(long, value_enum, default_value = "text")]
        format: Format,
    },
    /// Read the configuration and the certificates, and change nothing
    CheckConfig,
    /// Write the completions of a shell to standard output
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual page to standard output
    Man,
    /// Read the journal for the agent; started by it
    #[command(hide = true)]
    JournalReader,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Format {
    Text,
    Json,
}

/// Why a verb failed.
#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("cannot write")]
    Write(#[source] std::io::Error),
}

impl CliError {
    /// `sysexits.h` codes, which systemd prints by name.
    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Config(_) | Self::Stream(_) => EX_CONFIG,
            Self::Run(RunError::Locked { .. }) => EX_TEMPFAIL,
            Self::Run(RunError::StateDir { source, .. })
                if source.kind() == std::io::ErrorKind::PermissionDenied =>
            {
                EX_NOPERM
            }
            Self::Run(_) | Self::Write(_) => EX_IOERR,
        })
    }
}

/// Runs the verb and prints the error, if there is one, once.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors, and clap knows where each goes.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { EX_USAGE } else { 0 });
        }
    };
    if matches!(cli.verb, Verb::JournalReader) {
        return crate::source::journal::reader_main();
    }
    log::init();
    match cli.run() {
        Ok(code) => code,
        Err(CliError::Write(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => {
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "why502-agent: {}", error_chain(&error));
            error.exit_code()
        }
    }
}

impl Cli {
    fn run(&self) -> Result<ExitCode, CliError> {
        match &self.verb {
            Verb::Doctor { format } => return self.doctor(*format),
            verb => self.run_verb(verb)?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn run_verb(&self, verb: &Verb) -> Result<(), CliError> {
        match verb {
            Verb::Run => {
                let config = self.config()?;
                config.check()?;
                stream::check(&config.collector, &config.tls())?;
                if config.insecure_plaintext {
                    tracing::warn!(
                        "--insecure-plaintext: anybody on the way to {} can read and forge facts",
                        config.collector
                    );
                }
                Ok(block_on(run::run(&config))?)
            }
            Verb::Facts { format } => self.facts(*format),
            Verb::CheckConfig => {
                let config = self.config()?;
                config.check()?;
                stream::check(&config.collector, &config.tls())?;
                say(&format!(
                    "good: host {} reports to {}, state in {}",
                    config.host_name(),
                    config.collector,
                    config.state_dir().display()
                ))
            }
            Verb::Completions { shell } => {
                let mut text = Vec::new();
                clap_complete::generate(*shell, &mut Self::command(), "why502-agent", &mut text);
                std::io::stdout().write_all(&text).map_err(CliError::Write)
            }
            Verb::Man => clap_mangen::Man::new(Self::command())
                .render(&mut std::io::stdout())
                .map_err(CliError::Write),
            Verb::Doctor { .. } | Verb::JournalReader => Ok(()),
        }
    }

    /// The file, and what flags and variables put over it.
    fn config(&self) -> Result<Config, ConfigError> {
        let mut config = Config::load(self.config.as_deref())?;
        for (given, slot) in [
            (&self.state_dir, &mut config.state_dir),
            (&self.tls_ca, &mut config.tls_ca),
            (&self.tls_cert, &mut config.tls_cert),
            (&self.tls_key, &mut config.tls_key),
        ] {
            if let Some(path) = given {
                slot.clone_from(path);
            }
        }
        config.spool_max_mib = self.spool_max_mib.unwrap_or(config.spool_max_mib);
        if let Some(url) = &self.collector {
            config.collector.clone_from(url);
        }
        if let Some(host) = &self.host {
            config.host.clone_from(host);
        }
        if !self.endpoint.is_empty() {
            config.endpoints.clone_from(&self.endpoint);
        }
        config.insecure_plaintext |= self.insecure_plaintext;
        Ok(config)
    }

    fn doctor(&self, format: Format) -> Result<ExitCode, CliError> {
        let report = {
            let config = self.config()?;
            config.check()?;
            block_on(doctor::look(&config))?
        };
        match format {
            Format::Text => say(report.to_string().trim_end())?,
            Format::Json => say(&serde_json::json!(report).to_string())?,
        }
        Ok(ExitCode::from(report.exit_code()))
    }

    fn facts(&self, format: Format) -> Result<(), CliError> {
        let config = self.config()?;
        config.check()?;
        let mut failed = None;
        block_on(run::show(&config, |line| {
            let text = match format {
                Format::Text => line.to_string(),
                Format::Json => serde_json::json!({
                    "offset_us": line.offset_us,
                    "host": line.host,
                    "kind": why502_proto::kind_name(&line.kind),
                    "text": why502_proto::fields_text(&line.kind),
                })
                .to_string(),
            };
            failed = say(&text).err();
            failed.is_none()
        }))?;
        failed.map_or(Ok(()), Err)
    }
}

fn say(text: &str) -> Result<(), CliError> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).map_err(CliError::Write)
}

/// One thread: the agent waits, it does not compute.
fn block_on<T>(future: impl Future<Output = Result<T, RunError>>) -> Result<T, RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(RunError::Signals)?;
    tokio::task::LocalSet::new().block_on(&runtime, future)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_the_file_is_a_flag_and_a_variable_too() {
        let command = Cli::command();
        for key in toml::Table::try_from(Config::default()).unwrap().keys() {
            // A list has one flag for each of its items.
            let is = |flag: &&clap::Arg| {
                flag.get_long().is_some_and(|long| long == key || format!("{long}s") == *key)
            };
            let flag = command.get_arguments().find(is);
            let variable = flag.and_then(clap::Arg::get_env).unwrap_or_default();
            let expected = format!("WHY502_{}", key.to_uppercase().replace('-', "_"));
            assert_eq!(variable.to_str(), Some(expected.as_str()), "{key}");
        }
        let given =
            Cli::parse_from(["why502-agent", "run", "--tls-ca", "/a", "--spool-max-mib", "9"]);
        let config = given.config().unwrap();
        assert_eq!((config.tls_ca, config.spool_max_mib), ("/a".into(), 9));
    }
}
