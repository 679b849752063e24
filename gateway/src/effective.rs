//! What one gateway declares, whichever kind it is.

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use why502_proto::v1;

use crate::lines::Lines;
use crate::place::Problem;

/// How a gateway was started: all that its configuration's meaning depends on besides its files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    /// Its words, the program first, as in /proc/PID/cmdline. Only the program where it does not run.
    pub argv: Vec<String>,
    /// What relative paths are relative to.
    pub directory: PathBuf,
    /// Where the gateway's `/` is on this host: "/", or that of a container or of a test.
    pub root: PathBuf,
    /// As the program tells it: "2.6.12". Empty: not known, the newest is assumed.
    pub version: String,
    /// Its environment, as /proc/PID/environ or its unit tells it. Empty where it cannot be read.
    pub environment: BTreeMap<String, String>,
    /// This host's name, for configurations that ask for it.
    pub hostname: String,
}

/// What a configuration means, and where it came from.
#[derive(Debug, Default)]
pub struct Effective {
    /// The name of the instance in facts: its main configuration file, or what it was started with where it has none.
    pub instance: String,
    /// One for each route and endpoint, with the defaults of the version filled in. `addresses` equals the endpoint
    /// where that is an address, and is empty where it is a name: the agent resolves it.
    pub endpoints: Vec<v1::EndpointDeclared>,
    /// Peers that it says it does not ask now, for their failures or its health checks.
    pub disabled: Vec<v1::EndpointDisabled>,
    /// What it listens on: "0.0.0.0:80", "\[::\]:443", "unix:/run/x.sock".
    pub listens: BTreeSet<String>,
    /// Where it logs, and how the lines are read.
    pub logs: Vec<Log>,
    /// Where it can be asked what it runs with.
    pub admin: Option<Admin>,
    /// What its kind keeps for the answers of the admin interface.
    pub kept: Option<Arc<dyn Any + Send + Sync>>,
    /// What was not understood.
    pub problems: BTreeSet<Problem>,
    /// Files and directories that it depends on, as the gateway names them.
    pub watched: Vec<PathBuf>,
    /// The main file could be read.
    pub readable: bool,
}

/// A log that a gateway writes.
#[derive(Debug)]
pub struct Log {
    /// Where its lines go.
    pub target: Target,
    /// What reads them.
    pub lines: Box<dyn Lines>,
}

/// Where a gateway's lines go.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A file, absolute, as the gateway names it.
    File(PathBuf),
    /// syslog by /dev/log, which journald reads, with this tag; empty: the program's name.
    Syslog(String),
    /// Its standard output or error, which systemd gives to the journal.
    Stdio,
    /// Nowhere that an agent of this host can read; why, and what to do, for a person.
    Elsewhere {
        /// "logs go by UDP to 10.0.0.9:514".
        reason: String,
        /// "add `log /dev/log local0` to the section global".
        grant: String,
    },
}

/// An admin interface, asked for what the gateway runs with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// How it is spoken to.
    pub speech: Speech,
    /// "127.0.0.1:2019", "unix:/run/haproxy/admin.sock".
    pub address: String,
    /// What is asked, one after the other: paths of HTTP requests, or commands of a socket.
    pub questions: Vec<String>,
    /// How often: as often as the answer may change by itself, and no more than its log can bear.
    pub every: Duration,
}

/// Addresses, and peers that health checks took out, change by themselves.
pub const ASK_EVERY: Duration = Duration::from_secs(10);

/// How an admin interface is spoken to. Only ever asked, never told to do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speech {
    /// HTTP/1.1 GET.
    Http,
    /// A line, answered until the peer closes: HAProxy's stats socket.
    Socket,
}
