//! What the lines of a gateway's log tell.

use std::fmt::Debug;

use why502_proto::v1;

/// A reader of one log. It keeps what it needs of the configuration and of earlier lines, within a bound of its own.
pub trait Lines: Debug + Send {
    /// Reads one line, without its end, at most 64 KiB of it, and adds what it tells. A line that is not understood
    /// tells nothing.
    fn read(&mut self, line: &str, told: &mut Vec<Told>);

    /// No further line is there for now: adds what waited for the next one.
    fn pause(&mut self, told: &mut Vec<Told>) {
        let _ = told;
    }

    /// Whether the log can be read and is followed to its end; "nothing was said" means something only then.
    fn sight(&mut self, seeing: bool) {
        let _ = seeing;
    }

    /// What its lines mean depends on what the instance's other logs said before: they are to be read first.
    fn waits_for_others(&self) -> bool {
        false
    }
}

/// What a line told.
#[derive(Clone, Debug, PartialEq)]
pub struct Told {
    /// When it happened, microseconds since 1970. `None`: the line does not say, or only in a time without a zone.
    pub at_us: Option<i64>,
    /// What happened.
    pub what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A request, or one attempt of it, failed at the gateway (`count` is 1), or the upstream itself answered 502, 503
    /// or 504 (fault RELAYED).
    Failed(v1::RequestFailed),
    /// One request was answered: a 1 in its status class, `period_ms` 0.
    Answered(v1::RequestCounts),
    /// The gateway took a peer out of its rotation, or its health check did.
    Disabled(v1::EndpointDisabled),
    /// The gateway took its configuration anew, or refused to.
    Reloaded(v1::GatewayReloaded),
    /// The gateway itself: a worker crashed, no more descriptors.
    Event(v1::AppServerEvent),
}
