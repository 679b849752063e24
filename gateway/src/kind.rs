//! The kinds of gateways, and what each brings.

use crate::effective::{Effective, Start};
use crate::lines::Lines;

/// A kind of gateway, beside nginx, which the agent knows more closely (see [`crate::nginx`]).
#[derive(Clone, Copy, Debug)]
pub struct Kind {
    /// Its name in facts: "haproxy".
    pub name: &'static str,
    /// Names its processes have (/proc/PID/comm).
    pub programs: &'static [&'static str],
    /// What makes the program print its version.
    pub version_args: &'static [&'static str],
    /// Finds the version in what it printed: "2.6.12".
    pub version: fn(&str) -> Option<String>,
    /// Main configuration files that the distributions' units start it with; looked for where it does not run.
    pub usual: &'static [&'static str],
    /// It takes changed files by itself; others are told to, which shows in new workers or in a line of their log.
    pub follows_files: bool,
    /// Reads its configuration. Blocks on the disk.
    pub read: fn(&Start) -> Effective,
    /// Takes the answers to the questions of [`crate::effective::Admin`], in their order, into what was read.
    pub answered: fn(&mut Effective, &[String]),
    /// Whether a line is from one of its logs in a format that needs no configuration to be read.
    pub knows: fn(&str) -> bool,
    /// Reads such lines.
    pub lines: fn() -> Box<dyn Lines>,
}

/// All of them.
pub const KINDS: &[Kind] = &[crate::apache::KIND, crate::envoy::KIND, crate::traefik::KIND];
