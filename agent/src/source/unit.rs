//! Services and sockets as systemd sees them, told by its D-Bus signals as they happen.
//!
//! All that matters is listed once, then only signals are read: an idle host costs nothing. Each signal carries all
//! properties that change by themselves, so a state that has passed already is still told from its own signal and not
//! from a later look. See org.freedesktop.systemd1(5).

use std::time::Duration;

use tokio::sync::mpsc;
use why502_proto::v1;

use crate::observe::Observer;
use crate::source::{Interest, Roots};

mod asker;
mod bus;
mod job;
mod list;
mod state;
mod watch;

use bus::{Bus, BusError};
use watch::Watch;

/// First pause before systemd is asked for again; doubled up to [`PAUSE_MAX`] while it does not answer.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// Watches units and tells of them until it is dropped. Each change of a main process also goes to `tell`.
pub async fn run(roots: Roots, observer: Observer, tell: impl Fn(Interest)) {
    let mut watch = Watch::new(roots.clone(), observer.clone(), tell);
    let mut pause = PAUSE_MIN;
    let mut said = String::new();
    loop {
        let mut seen = false;
        let error = session(&roots, &mut watch, &mut seen).await;
        if seen {
            pause = PAUSE_MIN;
            said.clear();
        }
        let reason = chain(&error);
        // The same reason at every attempt is one period of blindness.
        if reason != said {
            observer.blinded(v1::Source::Unit, "", &reason, grant(&error));
            said = reason;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// One connection, from listing to its end. `seen` is set once everything was told.
async fn session(roots: &Roots, watch: &mut Watch<impl Fn(Interest)>, seen: &mut bool) -> BusError {
    let bus = match Bus::connect(&roots.root).await {
        Ok(bus) => bus,
        Err(error) => return error,
    };
    let (sender, signals) = mpsc::channel(bus::SIGNALS_MAX);
    tokio::select! {
        error = bus.pump(sender) => error,
        error = watch.follow(&bus, signals, seen) => error,
    }
}

/// What would mend it.
fn grant(error: &BusError) -> &'static str {
    match error {
        BusError::Connect(_) => {
            "run systemd and its D-Bus socket on this host, and let the agent reach \
             /run/dbus/system_bus_socket"
        }
        BusError::Call { .. } => "allow calls to org.freedesktop.systemd1 on the system bus",
        BusError::Ended | BusError::Overrun => "nothing: it is tried again",
    }
}

/// An error with its sources, as one line.
fn chain(error: &BusError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
