//! When to connect again: sans-IO, so that a day of reconnects is a microsecond of test.

use std::time::Duration;

/// Ceiling of the first pause after a connection that worked.
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// Ceiling of the longest pause: a collector that comes back has all its agents within half a minute.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Ceiling after a refusal that only a person can mend (wrong certificate, wrong version).
const PAUSE_REFUSED: Duration = Duration::from_secs(60);

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Not reached, or the stream broke.
    Broken,
    /// The collector refused this agent.
    Refused,
}

/// Pauses between connections, with full jitter, so that the agents of a fleet do not come back all at once.
#[derive(Debug)]
pub struct Delivery {
    ceiling: Duration,
}

impl Default for Delivery {
    fn default() -> Self {
        Self { ceiling: PAUSE_MIN }
    }
}

impl Delivery {
    /// The collector stored something. Only this resets the pause: one that accepts streams and stores nothing is
    /// down.
    pub fn stored(&mut self) {
        self.ceiling = PAUSE_MIN;
    }

    /// How long to wait before the next connection. `random` is a number from 0 to `u32::MAX`.
    pub fn pause(&mut self, end: End, random: u32) -> Duration {
        let ceiling = match end {
            End::Broken => self.ceiling,
            End::Refused => PAUSE_REFUSED,
        };
        self.ceiling = (self.ceiling * 2).min(PAUSE_MAX);
        ceiling.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_bound_and_only_stored_facts_reset_them() {
        let mut delivery = Delivery::default();
        let worst: Vec<_> = (0..10).map(|_| delivery.pause(End::Broken, u32::MAX)).collect();
        assert_eq!(worst[0], PAUSE_MIN);
        assert!(worst.is_sorted());
        assert_eq!(worst[9], PAUSE_MAX);
        delivery.stored();
        assert_eq!(delivery.pause(End::Broken, u32::MAX), PAUSE_MIN);
        assert_eq!(delivery.pause(End::Broken, 0), Duration::ZERO, "full jitter");
        assert_eq!(delivery.pause(End::Refused, u32::MAX), PAUSE_REFUSED);
    }
}
