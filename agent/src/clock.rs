//! The two clocks of a fact.

use rustix::time::{ClockId, clock_gettime};

/// One moment on the host's two clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Microseconds since boot (CLOCK_BOOTTIME).
    pub boottime_us: u64,
    /// Microseconds since 1970 (CLOCK_REALTIME).
    pub realtime_us: i64,
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        let us = |id| {
            let time = clock_gettime(id);
            time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_nsec / 1000)
        };
        Self {
            boottime_us: u64::try_from(us(ClockId::Boottime)).unwrap_or(0),
            realtime_us: us(ClockId::Realtime),
        }
    }

    /// Waits until the boot clock shows `boottime_us`.
    pub async fn reached(boottime_us: u64) {
        let wait = boottime_us.saturating_sub(Self::now().boottime_us);
        tokio::time::sleep(std::time::Duration::from_micros(wait)).await;
    }

    /// The moment of an earlier boot time, as seen from this moment.
    pub fn at_boottime(self, boottime_us: u64) -> Self {
        let by = i64::try_from(self.boottime_us).unwrap_or(i64::MAX)
            - i64::try_from(boottime_us).unwrap_or(i64::MAX);
        Self { boottime_us, realtime_us: self.realtime_us.saturating_sub(by) }
    }

    /// The moment of another wall time, as seen from this moment. Times before the boot become the boot.
    pub fn at_realtime(self, realtime_us: i64) -> Self {
        let by = self.realtime_us.saturating_sub(realtime_us);
        let boottime_us = i64::try_from(self.boottime_us).unwrap_or(i64::MAX).saturating_sub(by);
        Self { boottime_us: u64::try_from(boottime_us).unwrap_or(0), realtime_us }
    }
}

/// How far CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC, in microseconds: the time that the host was suspended. What
/// systemd and the journal call monotonic is turned into boot time by adding it.
pub fn suspended_us() -> u64 {
    let (boot, monotonic) = (clock_gettime(ClockId::Boottime), clock_gettime(ClockId::Monotonic));
    let us = (boot.tv_sec - monotonic.tv_sec)
        .saturating_mul(1_000_000)
        .saturating_add((boot.tv_nsec - monotonic.tv_nsec) / 1000);
    // The two reads are not at one moment: below a millisecond the host has not slept.
    u64::try_from(us).ok().filter(|us| *us >= 1000).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::Moment;

    #[test]
    fn the_clocks_move_together() {
        let now = Moment { boottime_us: 10_000_000, realtime_us: 1_000_000_000_000 };
        assert_eq!(now.at_boottime(9_000_000).realtime_us, 999_999_000_000);
        assert_eq!(now.at_realtime(999_999_000_000).boottime_us, 9_000_000);
        assert_eq!(now.at_realtime(0).boottime_us, 0);
    }
}
