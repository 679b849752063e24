//! Which hosts speak at present, and which fell silent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, broadcast};

use super::hello::Refusal;
use crate::clock::Moment;
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

/// The begin or the end of a host's silence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Silence {
    /// Of which host.
    pub host: String,
    /// It is over.
    pub ended: bool,
    /// When the host was last heard, microseconds since 1970: where its silence begins, or ended.
    pub heard_us: i64,
}

#[derive(Debug)]
struct Entry {
    presence: Presence,
    /// When `presence.heard_us` was, by a clock that nobody sets. Before a first word: when that may be expected.
    heard: Instant,
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

    /// Makes a host known that was heard before, at `heard_us`. It counts as silent when nothing is heard of it for
    /// [`SILENT_AFTER`] from `expected` on, or at once if it was `silent` already.
    pub fn remember(&self, host: &str, heard_us: i64, silent: bool, expected: Instant) {
        let mut hosts = self.lock();
        let entry = hosts.entry(host.to_owned()).or_insert_with(|| Entry::new(expected));
        // A stream may be there already: then the past only says what is to be ended.
        entry.presence.silent |= silent;
        entry.presence.heard_us = entry.presence.heard_us.max(heard_us);
    }

    /// Takes a host's name for a new stream. A stream that has fallen silent is ended for it.
    ///
    /// # Errors
    /// If another stream is alive, or too many hosts are known.
    pub fn claim(&self, host: &str, peer: &str, now: Moment) -> Result<Claim, Refusal> {
        let mut hosts = self.lock();
        if hosts.len() >= HOSTS_MAX && !hosts.contains_key(host) {
            return Err(Refusal::Bound(format!("{HOSTS_MAX} hosts are known, no more are taken")));
        }
        let entry = hosts.entry(host.to_owned()).or_insert_with(|| Entry::new(now.instant));
        let quiet = now.instant.saturating_duration_since(entry.heard);
        if entry.presence.connected && quiet < REPLACED_AFTER {
            return Err(Refusal::Taken { host: host.to_owned(), peer: entry.peer.clone() });
        }
        entry.replaced.notify_one();
        entry.replaced = Arc::default();
        entry.stream += 1;
        entry.peer = peer.to_owned();
        entry.presence.connected = true;
        entry.hear(now);
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

    /// Silences that begin or end now. Each is told once.
    pub fn silences(&self, now: Instant) -> Vec<Silence> {
        let mut changed = Vec::new();
        for (host, entry) in self.lock().iter_mut() {
            let quiet = now.saturating_duration_since(entry.heard);
            // What an earlier run heard of it is no word.
            let silent = quiet > SILENT_AFTER || (entry.presence.silent && entry.stream == 0);
            if silent != entry.presence.silent {
                entry.presence.silent = silent;
                let heard_us = entry.presence.heard_us;
                changed.push(Silence { host: host.clone(), ended: !silent, heard_us });
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

impl Entry {
    fn new(heard: Instant) -> Self {
        Self {
            presence: Presence::default(),
            heard,
            stream: 0,
            peer: String::new(),
            replaced: Arc::default(),
        }
    }

    fn hear(&mut self, now: Moment) {
        self.presence.heard_us = now.wall_us;
        self.heard = now.instant;
    }
}

impl Claim {
    /// Something was heard of the host.
    pub fn heard(&self, now: Moment, offset_us: i64, tolerance_us: u64) {
        if let Some(entry) = self.presences.lock().get_mut(&self.host)
            && entry.stream == self.stream
        {
            entry.hear(now);
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The moment `s` seconds after a first one, by both clocks; the wall clock says 1970.
    struct Clock(Instant);

    impl Clock {
        fn at(&self, s: u64) -> Moment {
            let instant = self.0 + Duration::from_secs(s);
            Moment { wall_us: i64::try_from(s).unwrap() * 1_000_000, instant }
        }
    }

    fn presences() -> (Presences, Clock) {
        (Presences::new(broadcast::Sender::new(8)), Clock(Instant::now()))
    }

    fn told(silences: &[Silence]) -> Vec<String> {
        let text = |silence: &Silence| {
            let word = if silence.ended { "ends" } else { "begins" };
            format!("{} {word} at {}", silence.host, silence.heard_us / 1_000_000)
        };
        silences.iter().map(text).collect()
    }

    #[test]
    fn a_live_stream_keeps_its_name_and_a_silent_one_loses_it() {
        let (presences, clock) = presences();
        let first = presences.claim("app-1", "10.0.0.1:5", clock.at(0)).unwrap();
        let taken = presences.claim("app-1", "10.0.0.2:6", clock.at(5)).unwrap_err();
        assert!(taken.to_string().contains("from 10.0.0.1:5"), "{taken}");
        let second = presences.claim("app-1", "10.0.0.2:6", clock.at(7)).unwrap();
        first.heard(clock.at(9), 0, 0);
        drop(first);
        assert!(presences.all()["app-1"].connected, "the older end does not end the newer");
        assert_eq!(presences.all()["app-1"].heard_us, 7_000_000, "nor does it speak for it");
        drop(second);
        assert!(!presences.all()["app-1"].connected);
        assert!(presences.claim("app-1", "10.0.0.3:7", clock.at(8)).is_ok(), "free at once");
    }

    #[test]
    fn silence_is_told_once_from_the_last_word_on_and_so_is_its_end() {
        let (presences, clock) = presences();
        let claim = presences.claim("app-1", "x", clock.at(0)).unwrap();
        claim.heard(clock.at(12), 0, 0);
        assert!(presences.silences(clock.at(27).instant).is_empty());
        assert_eq!(told(&presences.silences(clock.at(28).instant)), ["app-1 begins at 12"]);
        assert!(presences.silences(clock.at(29).instant).is_empty());
        claim.heard(clock.at(30), 0, 0);
        assert_eq!(told(&presences.silences(clock.at(31).instant)), ["app-1 ends at 30"]);
    }

    #[test]
    fn a_clock_that_is_set_makes_no_silence() {
        let (presences, clock) = presences();
        let claim = presences.claim("app-1", "x", clock.at(0)).unwrap();
        let set = |s, wall_us| Moment { wall_us, ..clock.at(s) };
        claim.heard(set(1, 3_600_000_000), 0, 0);
        assert!(presences.silences(clock.at(2).instant).is_empty(), "an hour ahead");
        claim.heard(set(2, -3_600_000_000), 0, 0);
        assert_eq!(presences.silences(clock.at(18).instant).len(), 1, "an hour back");
    }

    #[test]
    fn what_was_silent_in_an_earlier_run_is_told_only_when_it_comes_back() {
        let (presences, clock) = presences();
        presences.remember("gone", 0, true, clock.at(30).instant);
        presences.remember("here", 0, true, clock.at(30).instant);
        presences.remember("away", 0, false, clock.at(30).instant);
        let _here = presences.claim("here", "x", clock.at(5)).unwrap();
        assert_eq!(told(&presences.silences(clock.at(6).instant)), ["here ends at 5"]);
        assert_eq!(told(&presences.silences(clock.at(20).instant)), Vec::<String>::new());
        let later = told(&presences.silences(clock.at(46).instant));
        assert_eq!(later, ["away begins at 0", "here begins at 5"], "not gone: it is silent yet");
    }
}
