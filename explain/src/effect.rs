//! What has to be explained: the symptom first, then whatever brought it about.

use why502_proto::v1::{EndpointDeclared, Fault, Phase, RequestFailed};

use crate::address::Address;
use crate::snapshot::Seen;

/// One step of the way back.
#[derive(Clone, Debug)]
pub(crate) enum Effect<'a> {
    /// Requests to an endpoint failed, or would.
    Symptom(Symptom<'a>),
    /// A process that served, or should have, is no more.
    Ended(Ended<'a>),
    /// An accept queue is full, or its owner does not take from it.
    QueueStuck(Holder<'a>),
}

/// What the gateway felt, or would feel, at one address.
#[derive(Clone, Debug)]
pub(crate) struct Symptom<'a> {
    /// Host of the gateway.
    pub(crate) gateway: &'a str,
    /// The endpoint as the gateway names it.
    pub(crate) endpoint: String,
    /// Its addresses; several where a name resolves to several.
    pub(crate) addresses: Vec<Address>,
    pub(crate) phase: Phase,
    pub(crate) fault: Fault,
    /// The moment to explain: the first failure of the kind, or the snapshot's moment.
    pub(crate) at_us: i64,
    /// The newest failure. `None`: predicted.
    pub(crate) failed: Option<(&'a Seen, &'a RequestFailed)>,
    /// All failures of the question, oldest first.
    pub(crate) failures: Vec<&'a Seen>,
    pub(crate) declared: Option<(&'a Seen, &'a EndpointDeclared)>,
    /// The host that owns the address. `None`: none that is known.
    pub(crate) host: Option<&'a str>,
}

impl Symptom<'_> {
    /// The connection was refused, or would be.
    pub(crate) fn refused(&self) -> bool {
        self.fault == Fault::Econnrefused
    }

    /// Closed or reset before the answer.
    pub(crate) fn dropped(&self) -> bool {
        matches!(self.fault, Fault::Closed | Fault::Econnreset | Fault::Epipe)
    }

    /// Waited for the answer in vain.
    pub(crate) fn header_timeout(&self) -> bool {
        self.fault == Fault::Timeout && matches!(self.phase, Phase::Header | Phase::Body)
    }

    /// Waited for the connection in vain.
    pub(crate) fn connect_timeout(&self) -> bool {
        self.fault == Fault::Timeout && self.phase == Phase::Connect
    }

    /// Nobody has failed yet.
    pub(crate) fn predicted(&self) -> bool {
        self.failed.is_none()
    }
}

/// The end of a process or unit that was responsible for an endpoint.
#[derive(Clone, Debug)]
pub(crate) struct Ended<'a> {
    pub(crate) host: &'a str,
    /// "" where the process was in no unit.
    pub(crate) unit: String,
    /// 0 where no process was seen.
    pub(crate) pid: u32,
    /// The facts that say so: exit, listener closed, unit state.
    pub(crate) facts: Vec<&'a Seen>,
    /// How it ended, as far as any fact tells.
    pub(crate) signal: Option<u32>,
    pub(crate) status: Option<u32>,
    pub(crate) lifetime_ms: Option<u64>,
    /// When it ended.
    pub(crate) at_us: i64,
    /// When the symptom was felt.
    pub(crate) felt_us: i64,
    /// A worker whose master lives on.
    pub(crate) worker: bool,
    /// It is the first of a row of failures already: no loop is looked for behind it.
    pub(crate) looked: bool,
}

impl Ended<'_> {
    /// The unit, or the process where there is none.
    pub(crate) fn name(&self) -> String {
        if self.unit.is_empty() { format!("process {}", self.pid) } else { self.unit.clone() }
    }
}

/// Who holds a listener.
#[derive(Clone, Debug)]
pub(crate) struct Holder<'a> {
    pub(crate) host: &'a str,
    pub(crate) address: String,
    pub(crate) unit: String,
    pub(crate) pid: u32,
    pub(crate) at_us: i64,
    pub(crate) listener: &'a Seen,
}
