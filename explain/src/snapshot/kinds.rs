//! Facts by their kind, typed.

use why502_proto::{Kind, v1};

use crate::Seen;

/// A fact together with what it says.
#[derive(Debug)]
pub(crate) struct Said<'a, T> {
    pub(crate) seen: &'a Seen,
    pub(crate) what: &'a T,
}

impl<T> Clone for Said<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Said<'_, T> {}

impl<T> Said<'_, T> {
    pub(crate) fn at_us(&self) -> i64 {
        self.seen.at_us
    }
}

/// A message that is a kind of fact.
pub(crate) trait FactKind: Sized + 'static {
    const TAG: Tag;
    fn of(kind: &Kind) -> Option<&Self>;
}

macro_rules! kinds {
    ($($kind:ident),* $(,)?) => {
        /// Kinds that rules ask for.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Tag { $($kind,)* Other }

        pub(crate) fn tag(kind: &Kind) -> Tag {
            match kind { $(Kind::$kind(_) => Tag::$kind,)* _ => Tag::Other }
        }

        $(impl FactKind for v1::$kind {
            const TAG: Tag = Tag::$kind;
            fn of(kind: &Kind) -> Option<&Self> {
                if let Kind::$kind(what) = kind { Some(what) } else { None }
            }
        })*
    };
}

kinds![
    AcceptOverflow,
    AcceptQueue,
    AgentSilent,
    AgentStarted,
    AgentStopped,
    AppServerEvent,
    ConntrackFull,
    CpuThrottled,
    CrashReported,
    EndpointDeclared,
    EndpointDisabled,
    EndpointWithdrawn,
    EphemeralPorts,
    FactsDropped,
    FdUse,
    FirewallBlock,
    FirewallBlockGone,
    ForkRejected,
    GatewayGone,
    GatewaySeen,
    HostAddress,
    HostAddressGone,
    LinkState,
    ListenerClosed,
    ListenerOpened,
    MemoryLimit,
    MemoryLimitReached,
    MemoryPressure,
    NameResolved,
    Neighbor,
    OomKill,
    ProcessExited,
    ProcessResumed,
    ProcessStalled,
    ProcessStarted,
    RequestCounts,
    RequestFailed,
    Route,
    RouteForgotten,
    SourceBlinded,
    SourceSeeing,
    UnitJob,
    UnitLastWords,
    UnitProcessExit,
    UnitRestartScheduled,
    UnitSpawnFailed,
    UnitStartFailed,
    UnitStartLimitHit,
    UnitState,
    UnitStopTimedOut,
    UnitWatchdogTimeout,
    UnixSocketPath,
];
