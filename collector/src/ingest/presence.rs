//! Which hosts speak at present, and which fell silent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, broadcast};

use super::hello::Refusal;
use crate::view::Change;

/// A host of which nothing was heard for this long, three pings, is silent.
pub const SILENT_AFTER: Duration = Duration::from_secs(15);
/// A stream that is heard less often than its pings come (5 s) may be dead: a new one replaces it.
const REPLACED_AFTER: Duration = Duration::from_secs(6);
/// Hosts that may be known: each costs about 1 KiB here, and 43 KiB while it is connected.
const HOSTS_MAX: usize = 20_000;

/// What is known of a host's stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// It has a stream.
    pub connected: bool,
    /// Last heard, microseconds since 1970.
    pub heard_us: i64,
    /// Its wall clock minus the collector's.
    pub offset_us: i64,
    /// How far off its facts may be dated.
    pub tolerance_us: u64,
    /// A fact says that it is silent.
    pub silent: bool,
}

#[derive(Debug, Default)]
struct Entry {
    presence: Presence,
    /// Number of the stream that holds the name, where it comes from, and how to end it.
    stream: u64,
    peer: String,
    replaced: Arc<Notify>,
}

/// The present hosts. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Presences {
    hosts: Arc<Mutex<BTreeMap<String, Entry>>>,
    changes: broadcast::Sender<Change>,
}

/// A stream's hold on its host's name; dropping it gives it back.
#[derive(Debug)]
pub struct Claim {
    presences: Presences,
    host: String,
    stream: u64,
    /// Notified when a newer stream takes over.
    pub replaced: Arc<Notify>,
}

impl Presences {
    /// With nobody there. Coming and going is told to `changes`.
    pub fn new(changes: broadcast::Sender<Change>) -> Self {
        Self { hosts: Arc::default(), changes }
    }

    /// Makes a host known that was heard before, as if at `heard_us`.
    pub fn remember(&self, host: &str, heard_us: i64) {
        let presence = Presence { heard_us, ..Presence::default() };
        self.lock().entry(host.to_owned()).or_insert(Entry { presence, ..Entry::default() });
    }

    /// Takes a host's name for a new stream. A stream that has fallen silent is ended for it.
    ///
    /// # Errors
    /// If another stream is alive, or too many hosts are known.
    pub fn claim(&self, host: &str, peer: &str, now_us: i64) -> Result<Claim, Refusal> {
        let mut hosts = self.lock();
        if hosts.len() >= HOSTS_MAX && !hosts.contains_key(host) {
            return Err(Refusal::Bound(format!("{HOSTS_MAX} hosts are known, no more are taken")));
        }
        let entry = hosts.entry(host.to_owned()).or_default();
        let quiet = now_us.saturating_sub(entry.presence.heard_us);
        if entry.presence.connected && quiet < micros(REPLACED_AFTER) {
            return Err(Refusal::Taken { host: host.to_owned(), peer: entry.peer.clone() });
        }
        entry.replaced.notify_one();
        entry.replaced = Arc::default();
        entry.stream += 1;
        entry.peer = peer.to_owned();
        entry.presence.connected = true;
        entry.presence.heard_us = now_us;
        let claim = Claim {
            presences: self.clone(),
            host: host.to_owned(),
            stream: entry.stream,
            replaced: Arc::clone(&entry.replaced),
        };
        drop(hosts);
        self.tell(host);
        Ok(claim)
    }

    /// What is known of each host.
    pub fn all(&self) -> BTreeMap<String, Presence> {
        let hosts = self.lock();
        hosts.iter().map(|(host, entry)| (host.clone(), entry.presence.clone())).collect()
    }

    /// Hosts whose silence begins or ends now: name, and whether it ended. Each is told once.
    pub fn silences(&self, now_us: i64) -> Vec<(String, bool)> {
        let mut changed = Vec::new();
        for (host, entry) in self.lock().iter_mut() {
            let presence = &mut entry.presence;
            let silent = now_us.saturating_sub(presence.heard_us) > micros(SILENT_AFTER);
            if silent != presence.silent {
                presence.silent = silent;
                changed.push((host.clone(), !silent));
            }
        }
        changed
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, host: &str) {
        let _nobody = self.changes.send(Change::Host(host.to_owned()));
    }
}

impl Claim {
    /// Something was heard of the host.
    pub fn heard(&self, now_us: i64, offset_us: i64, tolerance_us: u64) {
        if let Some(entry) = self.presences.lock().get_mut(&self.host)
            && entry.stream == self.stream
        {
            entry.presence.heard_us = now_us;
            entry.presence.offset_us = offset_us;
            entry.presence.tolerance_us = tolerance_us;
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut hosts = self.presences.lock();
        if let Some(entry) = hosts.get_mut(&self.host)
            && entry.stream == self.stream
        {
            entry.presence.connected = false;
        }
        drop(hosts);
        self.presences.tell(&self.host);
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000;

    fn presences() -> Presences {
        Presences::new(broadcast::Sender::new(8))
    }

    #[test]
    fn a_live_stream_keeps_its_name_and_a_silent_one_loses_it() {
        let presences = presences();
        let first = presences.claim("app-1", "10.0.0.1:5", 0).unwrap();
        let taken = presences.claim("app-1", "10.0.0.2:6", 5 * S).unwrap_err();
        assert!(taken.to_string().contains("from 10.0.0.1:5"), "{taken}");
        let second = presences.claim("app-1", "10.0.0.2:6", 7 * S).unwrap();
        first.heard(9 * S, 0, 0);
        drop(first);
        assert!(presences.all()["app-1"].connected, "the older end does not end the newer");
        assert_eq!(presences.all()["app-1"].heard_us, 7 * S, "nor does it speak for it");
        drop(second);
        assert!(!presences.all()["app-1"].connected);
        assert!(presences.claim("app-1", "10.0.0.3:7", 8 * S).is_ok(), "free at once");
    }

    #[test]
    fn silence_is_told_once_and_so_is_its_end() {
        let presences = presences();
        presences.remember("old", 0);
        let claim = presences.claim("app-1", "x", 0).unwrap();
        assert_eq!(presences.silences(10 * S), []);
        claim.heard(12 * S, 0, 0);
        assert_eq!(presences.silences(20 * S), [("old".into(), false)]);
        assert_eq!(presences.silences(21 * S), []);
        let _back = presences.claim("old", "x", 22 * S).unwrap();
        assert_eq!(presences.silences(22 * S), [("old".into(), true)]);
    }
}
