//! One time for all hosts: when a host's boot was, by the collector's clock.
//!
//! A host's wall clock may be hours off and may jump; its boot clock (CLOCK_BOOTTIME) does neither. So a fact
//! is dated `boot + boottime_us`, where the moment of the boot is measured on each stream: every message that
//! carries the boot clock arrives a little after it was sent, the quickest of the last minute by about half a
//! round trip. Within a boot the order of facts is thus the order of their boot times.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Messages that the estimate looks back on: a minute of pings, so that a drift of 100 ppm stays below 6 us.
const SAMPLES_MAX: usize = 12;
/// How far off a boot may be placed that only one message has told of: a slow link's delay.
const TOLERANCE_FIRST_US: u64 = 50_000;
/// What the measured half of a round trip may leave out: scheduling on both sides.
const TOLERANCE_FLOOR_US: u64 = 500;
/// How far a stored estimate may be from the first message of a new stream and still hold.
const STORED_SLACK_US: i64 = 1_000_000;
/// A fact this much later than the boot clock of its own stream has a time that cannot be.
const FUTURE_MAX_US: i64 = 1_000_000;
/// No host has been up for 50 years: a boot time beyond it is damaged.
pub const BOOTTIME_MAX_US: u64 = 50 * 366 * 86_400 * 1_000_000;

/// Microseconds since 1970 by the collector's clock.
pub fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// Now, by both clocks of the collector: one to date facts by, and one to wait by, since the first may be set.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// Microseconds since 1970.
    pub wall_us: i64,
    /// Never goes back.
    pub instant: Instant,
}

impl Moment {
    /// Reads both.
    pub fn now() -> Self {
        Self { wall_us: now_us(), instant: Instant::now() }
    }
}

/// When a loop last went around, for the watchdog. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Beat {
    begun: Instant,
    last_us: Arc<AtomicU64>,
}

impl Default for Beat {
    fn default() -> Self {
        Self { begun: Instant::now(), last_us: Arc::default() }
    }
}

impl Beat {
    /// The loop goes around.
    pub fn beat(&self) {
        self.last_us.store(self.age_us(), Ordering::Relaxed);
    }

    /// Whether it did within `within`.
    pub fn alive(&self, within: Duration) -> bool {
        let quiet_us = self.age_us().saturating_sub(self.last_us.load(Ordering::Relaxed));
        Duration::from_micros(quiet_us) <= within
    }

    fn age_us(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// When a boot was, by the collector's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch {
    /// Boot time 0, microseconds since 1970.
    pub at_us: i64,
    /// How far off that may be.
    pub tolerance_us: u64,
}

/// A fact's place in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// By the collector's clock.
    pub at_us: i64,
    /// How far off that may be.
    pub tolerance_us: u64,
    /// The fact's own time cannot be; it was given the time of its arrival.
    pub misdated: bool,
}

/// The running estimate of one stream.
#[derive(Clone, Debug)]
pub struct BootClock {
    epoch: Epoch,
    offset_us: i64,
    /// Arrival minus boot time of each message, newest last.
    samples: VecDeque<i64>,
    round_trip_min_us: Option<u64>,
}

impl BootClock {
    /// Begins with what a `hello` told, and what an earlier stream of the same boot measured.
    pub fn begin(stored: Option<Epoch>, boottime_us: u64, realtime_us: i64, now_us: i64) -> Self {
        let sample = now_us.saturating_sub(signed(boottime_us));
        let holds = |e: &Epoch| sample.saturating_sub(e.at_us).abs() <= STORED_SLACK_US;
        let first = Epoch { at_us: sample, tolerance_us: TOLERANCE_FIRST_US };
        Self {
            epoch: stored.filter(holds).unwrap_or(first),
            offset_us: realtime_us.saturating_sub(now_us),
            samples: VecDeque::from([sample]),
            round_trip_min_us: None,
        }
    }

    /// Takes in a ping.
    pub fn hear(
        &mut self,
        boottime_us: u64,
        realtime_us: i64,
        round_trip_us: Option<u64>,
        now_us: i64,
    ) {
        self.offset_us = realtime_us.saturating_sub(now_us);
        if self.samples.len() >= SAMPLES_MAX {
            self.samples.pop_front();
        }
        self.samples.push_back(now_us.saturating_sub(signed(boottime_us)));
        if let Some(round_trip) = round_trip_us {
            let least = self.round_trip_min_us.unwrap_or(u64::MAX).min(round_trip);
            self.round_trip_min_us = Some(least);
        }
        let (Some(least), Some(quickest)) =
            (self.round_trip_min_us, self.samples.iter().min().copied())
        else {
            return;
        };
        let fresh = Epoch {
            at_us: quickest.saturating_sub(signed(least / 2)),
            tolerance_us: (least / 2).saturating_add(TOLERANCE_FLOOR_US),
        };
        // An estimate that is no better only makes facts of one boot jump against each other.
        let apart = fresh.at_us.abs_diff(self.epoch.at_us);
        let wrong = apart > fresh.tolerance_us.saturating_add(self.epoch.tolerance_us);
        if wrong || fresh.tolerance_us < self.epoch.tolerance_us / 2 {
            self.epoch = fresh;
        }
    }

    /// When a fact of this boot happened. Never after its arrival.
    pub fn place(&self, boottime_us: u64, now_us: i64) -> Placed {
        let at_us = self.epoch.at_us.saturating_add(signed(boottime_us));
        let misdated = at_us > now_us.saturating_add(FUTURE_MAX_US);
        let tolerance_us = self.epoch.tolerance_us;
        Placed { at_us: at_us.min(now_us), tolerance_us, misdated }
    }

    /// When a fact of an earlier boot happened of which no stream was seen: by the host's wall clock as far off
    /// as it is now.
    pub fn place_unseen_boot(&self, realtime_us: i64, now_us: i64) -> Placed {
        let at_us = realtime_us.saturating_sub(self.offset_us);
        let misdated = at_us > now_us.saturating_add(FUTURE_MAX_US) || at_us < 0;
        let at_us = if misdated { now_us } else { at_us.min(now_us) };
        Placed { at_us, tolerance_us: STORED_SLACK_US.unsigned_abs(), misdated }
    }

    /// The present estimate.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The host's wall clock minus the collector's.
    pub fn offset_us(&self) -> i64 {
        self.offset_us
    }
}

fn signed(us: u64) -> i64 {
    i64::try_from(us).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_764_000_000_000_000;
    const HOUR: i64 = 3_600_000_000;

    #[test]
    fn a_clock_that_is_hours_off_does_not_move_a_fact() {
        for offset in [-5 * HOUR, 0, 7 * HOUR] {
            let mut clock = BootClock::begin(None, 1_000_000, NOON + offset, NOON);
            clock.hear(2_000_000, NOON + offset + 1_000_000, Some(400), NOON + 1_000_200);
            assert_eq!(clock.place(1_500_000, NOON + HOUR).at_us, NOON + 499_800);
            assert_eq!(clock.offset_us(), offset - 200);
        }
    }

    #[test]
    fn the_quickest_message_decides_and_late_ones_do_not_move_it() {
        let mut clock = BootClock::begin(None, 0, NOON, NOON + 40_000);
        assert_eq!(clock.epoch().tolerance_us, TOLERANCE_FIRST_US);
        clock.hear(5_000_000, NOON, Some(2_000), NOON + 5_001_000);
        assert_eq!(clock.epoch(), Epoch { at_us: NOON, tolerance_us: 1_500 });
        clock.hear(10_000_000, NOON, Some(90_000), NOON + 10_080_000);
        assert_eq!(clock.epoch(), Epoch { at_us: NOON, tolerance_us: 1_500 });
    }

    #[test]
    fn a_new_stream_goes_on_with_what_the_last_one_measured() {
        let stored = Epoch { at_us: NOON, tolerance_us: 700 };
        let late = BootClock::begin(Some(stored), 5_000_000, NOON, NOON + 5_300_000);
        assert_eq!(late.epoch(), stored);
        let other = BootClock::begin(Some(stored), 5_000_000, NOON, NOON + HOUR);
        assert_eq!(other.epoch().tolerance_us, TOLERANCE_FIRST_US, "the collector's clock was set");
    }

    #[test]
    fn absurd_times_become_the_arrival() {
        let clock = BootClock::begin(None, 1_000_000, NOON, NOON);
        let placed = clock.place(u64::MAX, NOON + 10);
        assert_eq!((placed.at_us, placed.misdated), (NOON + 10, true));
        let near = clock.place(1_000_050, NOON + 10);
        assert_eq!((near.at_us, near.misdated), (NOON + 10, false), "within the tolerance");
        assert!(clock.place_unseen_boot(i64::MIN, NOON).misdated);
        assert_eq!(clock.place_unseen_boot(NOON - HOUR, NOON).at_us, NOON - HOUR);
    }
}
