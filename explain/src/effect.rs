//! What is to be explained: the symptom first, then each cause that was found in its turn.

use why502_proto::v1::{self, Fault, Phase};

use crate::address::Address;
use crate::forward;
use crate::snapshot::{Death, Listener, Listening, Place, Said, Snapshot, Window};

/// Failures of one kind are counted for up to a second before they are reported.
const COUNTED_US: i64 = 1_100_000;
/// What a gateway feels is logged at once; the death behind it may be seen this much later by another source.
pub(crate) const SEEN_LATE_US: i64 = 1_000_000;

/// Words about what happened (journal, counters) are dated up to this much later.
pub(crate) const WORDS_LATE_US: i64 = 1_000_000;

/// One thing that asks for a cause.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Effect<'a> {
    /// Connections to a TCP address are refused, or would be; or nobody serves a unix path.
    NothingListens { place: Place<'a>, during: Window },
    /// Connecting to a unix socket failed in this way.
    UnixConnect { place: Place<'a>, during: Window, fault: Fault },
    /// The gateway's timer ended before a connection was there.
    ConnectTimeout { place: Place<'a>, during: Window },
    /// A connection that was there was closed or reset before it brought an answer.
    ConnectionLost { place: Place<'a>, during: Window, reused: Option<bool> },
    /// A connection was there, and no answer came in time.
    NoAnswer { place: Place<'a>, during: Window, failed: Said<'a, v1::RequestFailed> },
    /// A listener's connections are not taken, or its requests not answered.
    Busy { host: &'a str, listener: &'a Listener, during: Window },
    /// The gateway had no peer left to ask.
    NoPeer { gateway: &'a str, failed: Said<'a, v1::RequestFailed>, during: Window },
    /// The peer itself answered 502, 503 or 504.
    Relayed { place: Place<'a>, during: Window, failed: Said<'a, v1::RequestFailed> },
    /// A unit, or a process outside of units, does not run.
    Down { host: &'a str, unit: &'a str, death: Option<&'a Death>, during: Window },
    /// This process ended.
    Ended { host: &'a str, death: &'a Death, during: Window, role: Role },
    /// The service that should serve the endpoint listens somewhere else.
    Elsewhere { place: Place<'a>, listener: &'a Listener, during: Window, tie: Tie<'a> },
    /// A service could not start because its address was in use.
    PortTaken { host: &'a str, unit: &'a str, during: Window },
    /// It failed in another way, which its fault tells. The place is missing where no peer was reached for.
    Failed {
        gateway: &'a str,
        place: Option<Place<'a>>,
        during: Window,
        failed: Said<'a, v1::RequestFailed>,
    },
    /// There is no way to the endpoint, or nobody at the end of it.
    PathLost { place: Place<'a>, during: Window },
}

/// What the process that ended was to its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Main,
    /// One of a series of main processes that failed.
    InSeries,
    Worker,
}

/// How a listener on another port is tied to the endpoint.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Tie<'a> {
    /// The unit that listened on the declared port before.
    SameUnit,
    /// The gateway declared that port for the same route before.
    DeclaredBefore(Said<'a, v1::EndpointWithdrawn>),
    /// It is the only one that no endpoint leads to.
    OnlyOneLeft,
}

impl<'a> Effect<'a> {
    pub(crate) fn during(&self) -> Window {
        match *self {
            Self::NothingListens { during, .. }
            | Self::UnixConnect { during, .. }
            | Self::ConnectTimeout { during, .. }
            | Self::ConnectionLost { during, .. }
            | Self::NoAnswer { during, .. }
            | Self::Busy { during, .. }
            | Self::NoPeer { during, .. }
            | Self::Relayed { during, .. }
            | Self::Down { during, .. }
            | Self::Ended { during, .. }
            | Self::Elsewhere { during, .. }
            | Self::PortTaken { during, .. }
            | Self::Failed { during, .. }
            | Self::PathLost { during, .. } => during,
        }
    }

    pub(crate) fn place(&self) -> Option<Place<'a>> {
        match *self {
            Self::NothingListens { place, .. }
            | Self::UnixConnect { place, .. }
            | Self::ConnectTimeout { place, .. }
            | Self::ConnectionLost { place, .. }
            | Self::NoAnswer { place, .. }
            | Self::Relayed { place, .. }
            | Self::Elsewhere { place, .. }
            | Self::PathLost { place, .. } => Some(place),
            Self::Failed { place, .. } => place,
            _ => None,
        }
    }

    /// The gateway said only that it failed: what was there at that moment decides what it met.
    fn unspecific(
        snapshot: &'a Snapshot,
        place: Place<'a>,
        during: Window,
        failed: Said<'a, v1::RequestFailed>,
    ) -> Self {
        match (place.host(), place.address) {
            (Some(host), Address::Unix(path)) => {
                if let Some((fault, _)) = forward::unix_fault(snapshot, host, path) {
                    return Self::UnixConnect { place, during, fault };
                }
            }
            (Some(host), address) => {
                let during = snapshot.uncovered(host, address, during);
                if let Listening::Gap { .. } = snapshot.listening(host, address, during) {
                    return Self::NothingListens { place, during };
                }
            }
            (None, _) => {}
        }
        match (failed.what.phase(), failed.what.status) {
            (Phase::Connect, _) => {
                Self::Failed { gateway: place.gateway, place: Some(place), during, failed }
            }
            (_, Some(504)) => Self::NoAnswer { place, during, failed },
            _ => Self::ConnectionLost { place, during, reused: failed.what.reused },
        }
    }

    /// What a health check of the gateway felt. `None`: it does not say, or another question than requests ask.
    pub(crate) fn of_check(
        snapshot: &'a Snapshot,
        gateway: &'a str,
        check: Said<'a, v1::EndpointDisabled>,
    ) -> Option<Self> {
        let (phase, fault, at_us) = (check.what.phase(), check.what.fault(), check.at_us());
        let during = Window { from_us: at_us - CHECKED_US, at_us, to_us: at_us };
        let place = snapshot.place(gateway, &check.what.endpoint, at_us)?;
        let unix = matches!(place.address, Address::Unix(_));
        match (phase, fault) {
            (
                Phase::Connect,
                Fault::Enoent | Fault::Econnrefused | Fault::Eacces | Fault::Eagain,
            ) if unix => Some(Self::UnixConnect { place, during, fault }),
            (Phase::Connect, Fault::Econnrefused) => Some(Self::NothingListens { place, during }),
            (Phase::Connect, Fault::Timeout) => Some(Self::ConnectTimeout { place, during }),
            _ => None,
        }
    }

    /// What the gateway's report of failed requests asks for. `None`: it names no peer, and none is needed.
    pub(crate) fn of_failure(
        snapshot: &'a Snapshot,
        gateway: &'a str,
        failed: Said<'a, v1::RequestFailed>,
    ) -> Option<Self> {
        let during = window(failed);
        let (phase, fault) = (failed.what.phase(), failed.what.fault());
        if fault == Fault::NoLiveUpstreams {
            return Some(Self::NoPeer { gateway, failed, during });
        }
        let Some(place) = snapshot.place(gateway, &failed.what.endpoint, failed.at_us()) else {
            let named = matches!(phase, Phase::Resolve | Phase::Select);
            return named.then_some(Self::Failed { gateway, place: None, during, failed });
        };
        let unix = matches!(place.address, Address::Unix(_));
        let refused = matches!(fault, Fault::Econnrefused | Fault::Enoent);
        let during = match place.host() {
            Some(host) if refused => snapshot.uncovered(host, place.address, during),
            _ => during,
        };
        Some(match (phase, fault) {
            (_, Fault::Relayed) => Self::Relayed { place, during, failed },
            (
                Phase::Connect | Phase::Unspecified,
                Fault::Enoent | Fault::Econnrefused | Fault::Eacces | Fault::Eagain,
            ) if unix => Self::UnixConnect { place, during, fault },
            (Phase::Connect | Phase::Unspecified, Fault::Econnrefused) => {
                Self::NothingListens { place, during }
            }
            (Phase::Connect, Fault::Timeout) => Self::ConnectTimeout { place, during },
            (Phase::Header | Phase::Send, Fault::Timeout) => {
                Self::NoAnswer { place, during, failed }
            }
            (
                Phase::Connect | Phase::Send | Phase::Header | Phase::Body | Phase::Unspecified,
                Fault::Closed | Fault::Econnreset | Fault::Epipe,
            ) => Self::ConnectionLost { place, during, reused: failed.what.reused },
            (Phase::Connect | Phase::Unspecified, Fault::Unspecified) => {
                Self::unspecific(snapshot, place, during, failed)
            }
            _ => Self::Failed { gateway, place: Some(place), during, failed },
        })
    }
}

/// A check fails for some rounds before it counts: three times 2 s by HAProxy's defaults.
const CHECKED_US: i64 = 10_000_000;

/// When the requests of one report failed, on any host's clock.
pub(crate) fn window(failed: Said<'_, v1::RequestFailed>) -> Window {
    let tolerance = i64::try_from(failed.seen.tolerance_us).unwrap_or(i64::MAX / 4);
    let at_us = failed.at_us();
    // A count is reported when its second is over; the failures lie before.
    let counted = if failed.what.count > 1 { COUNTED_US } else { 0 };
    Window {
        from_us: at_us.saturating_sub(tolerance.saturating_add(counted)),
        at_us,
        to_us: at_us.saturating_add(tolerance.saturating_add(SEEN_LATE_US)),
    }
}
