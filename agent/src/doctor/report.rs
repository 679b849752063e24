//! What `doctor` prints, and with which code it ends.

use std::fmt;

/// What is to be said of one endpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Requests fail, or would.
    Problem,
    /// What would show it was not visible.
    CannotTell,
    /// It is on another host.
    Elsewhere,
    /// Nothing is wrong.
    #[default]
    Good,
}

/// One endpoint.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// Good or not.
    pub state: State,
    /// Route, as the gateway has it.
    pub route: String,
    /// Endpoint, as declared.
    pub endpoint: String,
    /// Where it is declared: file and line.
    pub place: String,
    /// What is wrong, in one sentence.
    pub text: String,
    /// Id of the catalogue; "": none.
    pub root_cause: String,
    /// One command that shows it.
    pub check: String,
    /// What to do.
    pub fix: String,
    /// What was not visible, and what to grant.
    pub missing: Vec<String>,
}

/// How well a source sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct SourceSight {
    /// "journal"
    pub source: String,
    /// Part of it; "": as a whole.
    pub scope: String,
    /// Whether it sees.
    pub seeing: bool,
    /// Why not.
    pub reason: String,
    /// What would mend it.
    pub grant: String,
}

/// The whole look.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// This host.
    pub host: String,
    /// Every endpoint.
    pub findings: Vec<Finding>,
    /// Every source.
    pub sources: Vec<SourceSight>,
}

impl Report {
    /// 0: nothing is wrong. 1: problems. 2: could not look, at least not everywhere.
    pub fn exit_code(&self) -> u8 {
        let any = |state| self.findings.iter().any(|finding| finding.state == state);
        let gateway =
            self.sources.iter().any(|s| s.source == "gateway" && s.scope.is_empty() && s.seeing);
        match () {
            () if any(State::Problem) => 1,
            () if any(State::CannotTell) || !gateway => 2,
            () => 0,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |state| self.findings.iter().filter(|finding| finding.state == state).count();
        writeln!(
            f,
            "{}: {} endpoints, {} with a problem, {} that cannot be told",
            self.host,
            self.findings.len(),
            count(State::Problem),
            count(State::CannotTell)
        )?;
        for state in [State::Problem, State::CannotTell, State::Elsewhere, State::Good] {
            for finding in self.findings.iter().filter(|finding| finding.state == state) {
                write!(f, "{finding}")?;
            }
        }
        writeln!(f, "\nsources")?;
        for sight in &self.sources {
            let name = if sight.scope.is_empty() {
                sight.source.clone()
            } else {
                format!("{} ({})", sight.source, sight.scope)
            };
            match sight.seeing {
                true => writeln!(f, "  {name:24} sees")?,
                false => writeln!(f, "  {name:24} blind: {}", sight.reason)?,
            }
            if !sight.seeing && !sight.grant.is_empty() {
                writeln!(f, "  {:24} to mend it: {}", "", sight.grant)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = match self.state {
            State::Problem => "PROBLEM",
            State::CannotTell => "CANNOT TELL",
            State::Elsewhere => "ELSEWHERE",
            State::Good => "OK",
        };
        let endpoint = if self.endpoint.is_empty() { "(no endpoint)" } else { &self.endpoint };
        writeln!(f, "\n{word:11} {} -> {endpoint}  {}", self.route, self.place)?;
        let mut part = |name: &str, text: &str| match text {
            "" => Ok(()),
            text => writeln!(f, "            {name}{text}"),
        };
        part("", &self.text)?;
        part("cause  ", &self.root_cause)?;
        part("check  ", &self.check)?;
        part("fix    ", &self.fix)?;
        self.missing.iter().try_for_each(|missing| part("not seen: ", missing))
    }
}
