//! What a rule concluded. Evidence is borrowed from the snapshot, so a rule cannot cite what was not observed.

use why502_proto::Kind;
use why502_proto::v1::Source;

use crate::Seen;
use crate::effect::Effect;
use crate::snapshot::{Sight, Snapshot, blind_since};

/// How sure a link is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Confidence {
    /// Nothing speaks against it.
    Possible,
    /// It rests on counters, on configuration, or on the absence of anything else.
    Likely,
    /// A fact names the same process, listener or unit.
    Proven,
}

impl Confidence {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Possible => "possible",
            Self::Likely => "likely",
            Self::Proven => "proven",
        }
    }
}

/// The answer of one rule to "is this why?".
#[derive(Clone, Debug)]
pub(crate) enum Verdict<'a> {
    Explained(Box<Cause<'a>>),
    /// These facts exclude it.
    RuledOut {
        by: Vec<&'a Seen>,
        text: String,
    },
    /// Who could have told did not see.
    Undecided {
        missing: Vec<Blind>,
    },
    /// Nothing points to it, and whoever would tell was seeing.
    NoSign,
}

/// One link of a chain.
#[derive(Clone, Debug)]
pub(crate) struct Cause<'a> {
    pub(crate) host: String,
    pub(crate) at_us: i64,
    pub(crate) confidence: Confidence,
    /// A clause: who, where, what. The headline begins with that of the root.
    pub(crate) what: String,
    /// Sentences.
    pub(crate) text: String,
    pub(crate) evidence: Vec<&'a Seen>,
    /// What stands for `{unit}` and the like in the rule's texts.
    pub(crate) names: Vec<(&'static str, String)>,
    /// Takes the place of the rule's own text where that does not fit.
    pub(crate) check: Option<String>,
    pub(crate) fix: Option<String>,
    pub(crate) next: Vec<Effect<'a>>,
}

impl<'a> Cause<'a> {
    pub(crate) fn new(host: &str, at_us: i64, confidence: Confidence, what: String) -> Self {
        Self {
            host: host.to_owned(),
            at_us,
            confidence,
            text: format!("{what}."),
            what,
            evidence: Vec::new(),
            names: Vec::new(),
            check: None,
            fix: None,
            next: Vec::new(),
        }
    }

    pub(crate) fn text(mut self, text: String) -> Self {
        self.text = text;
        self
    }

    pub(crate) fn because(mut self, facts: impl IntoIterator<Item = &'a Seen>) -> Self {
        self.evidence.extend(facts);
        self
    }

    pub(crate) fn name(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.names.push((key, value.into()));
        self
    }

    pub(crate) fn check(mut self, check: impl Into<String>) -> Self {
        self.check = Some(check.into());
        self
    }

    pub(crate) fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    pub(crate) fn next(mut self, effect: Effect<'a>) -> Self {
        self.next.push(effect);
        self
    }

    pub(crate) fn explained(mut self) -> Verdict<'a> {
        // A link that cites nothing is a guess, whatever its rule thinks.
        if self.evidence.is_empty() {
            self.confidence = Confidence::Possible;
        }
        Verdict::Explained(Box::new(self))
    }
}

/// What could not be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Blind {
    pub(crate) host: String,
    /// Lower-case name of the source, or "agent".
    pub(crate) source: &'static str,
    pub(crate) since_us: Option<i64>,
    pub(crate) text: String,
}

pub(crate) fn source_name(source: Source) -> &'static str {
    match source {
        Source::Unspecified => "",
        Source::Process => "process",
        Source::Unit => "unit",
        Source::Memory => "memory",
        Source::Listener => "listener",
        Source::KernelLog => "kernel_log",
        Source::Journal => "journal",
        Source::Gateway => "gateway",
        Source::Host => "host",
        Source::Network => "network",
    }
}

/// What stands for a source that did not see; `told`: what it would have told.
pub(crate) fn blind(host: &str, source: Source, sight: Sight<'_>, told: &str) -> Blind {
    let name = if sight == Sight::NoAgent { "agent" } else { source_name(source) };
    let (since_us, why) = match sight {
        Sight::NoAgent => (None, "there is no agent on this host".to_owned()),
        Sight::Unknown => (None, "this source has not said that it sees".to_owned()),
        Sight::Seeing(_) => (None, "it sees, and has not told yet".to_owned()),
        Sight::Blind(fact) => why_blind(fact),
    };
    Blind { host: host.to_owned(), source: name, since_us, text: format!("{told}: {why}") }
}

/// Since when, and why, by the fact that says so.
fn why_blind(fact: &Seen) -> (Option<i64>, String) {
    let (since_us, why) = match &fact.kind {
        Kind::SourceBlinded(blinded) => {
            let mend = if blinded.grant.is_empty() {
                String::new()
            } else {
                format!("; to mend it: {}", blinded.grant)
            };
            (blind_since(fact, blinded), format!("{}{mend}", blinded.reason))
        }
        Kind::AgentSilent(_) => (fact.at_us, "nothing was heard from its agent since".to_owned()),
        Kind::AgentStopped(_) => (
            fact.at_us,
            "the agent was stopped; to mend it: systemctl start why502-agent".to_owned(),
        ),
        _ => (fact.at_us, "facts were lost at a bound".to_owned()),
    };
    (Some(since_us), why)
}

impl Snapshot {
    /// The first of these sources that could not see at that moment.
    pub(crate) fn first_blind(
        &self,
        host: &str,
        sources: &[Source],
        at_us: i64,
        told: &str,
    ) -> Option<Blind> {
        sources.iter().find_map(|&source| {
            let sight = self.sight(host, source, at_us);
            sight.seeing().is_none().then(|| blind(host, source, sight, told))
        })
    }
}
