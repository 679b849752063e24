//! Reading memory pressure: of the host and, where there is cgroup v2, of what matters (accounting/psi.rst).

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::event::epoll;
use rustix::fs::{Mode, OFlags, open};
use why502_proto::{Kind, v1};

use super::memory_file;
use super::proc_file;
use super::thread_state::{Kernel, Task};
use crate::source::cgroup::of_path;

/// Where the numbers of pressure triggers begin.
pub(super) const PRESSURE_TOKENS: u64 = 3 << 32;
/// Pressure triggers at once; each is a descriptor and a timer in the kernel.
const PRESSURES_MAX: usize = 64;
/// Tasks waited for memory for a tenth of two seconds. Windows of 2 s need no capability.
const TRIGGER: &[u8] = b"some 200000 2000000\0";
/// While there is pressure it is read this often.
const PRESSURE_LOOK_US: u64 = 2_000_000;
/// Without triggers.
const PRESSURE_POLL_US: u64 = 5_000_000;
/// After a trigger it is said from this share on.
const PRESSURE_SAID_PERMYRIAD: u32 = 100;
/// The stall is over when `some` fell below this and no trigger came for ten seconds.
const PRESSURE_OVER_PERMYRIAD: u32 = 200;
const PRESSURE_OVER_US: u64 = 10_000_000;
/// Pressure is said again when `some` or `full` passes one of these.
const PRESSURE_STEPS: [u32; 5] = [500, 1000, 2000, 4000, 7000];

/// What the thread keeps to read pressure.
#[derive(Debug, Default)]
pub(super) struct PressureSight {
    pressures: BTreeMap<u64, Pressure>,
    next_pressure: u64,
}

/// Pressure of the host (empty path) or of a cgroup.
#[derive(Debug)]
struct Pressure {
    cgroup: String,
    file: PathBuf,
    trigger: Option<OwnedFd>,
    /// `memory_pressure` was said, with this many steps passed.
    said: Option<(usize, usize)>,
    triggered_us: u64,
}

impl Kernel<'_> {
    /// Watches a pressure file. `false`: there is none.
    pub(super) fn watch_pressure(&mut self, cgroup: String, file: PathBuf) -> bool {
        if proc_file::read(&file).is_err() {
            return false;
        }
        if self.pressure_sight.pressures.len() >= PRESSURES_MAX {
            return true;
        }
        let token = PRESSURE_TOKENS + self.pressure_sight.next_pressure;
        self.pressure_sight.next_pressure += 1;
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let armed = open(&file, flags, Mode::empty()).and_then(|fd| {
            rustix::io::write(&fd, TRIGGER)?;
            self.add_flags(&fd, token, epoll::EventFlags::PRI)?;
            Ok(fd)
        });
        // Without a trigger (before 6.6 it takes CAP_SYS_RESOURCE) the averages are read every few seconds.
        if armed.is_err() {
            self.plan(Task::Pressure, PRESSURE_POLL_US);
        }
        let trigger = armed.ok();
        let pressure = Pressure { cgroup, file, trigger, said: None, triggered_us: 0 };
        self.pressure_sight.pressures.insert(token, pressure);
        true
    }

    pub(super) fn pressure_woken(&mut self, token: u64, flags: epoll::EventFlags) {
        if flags.contains(epoll::EventFlags::ERR) {
            // The cgroup is gone.
            self.end_pressure(token);
            return;
        }
        let now_us = self.facts.now_us();
        if let Some(pressure) = self.pressure_sight.pressures.get_mut(&token) {
            pressure.triggered_us = now_us;
        }
        self.read_pressure(token);
        self.plan(Task::Pressure, PRESSURE_LOOK_US);
    }

    pub(super) fn look_at_pressure(&mut self) {
        let tokens: Vec<u64> = self.pressure_sight.pressures.keys().copied().collect();
        for token in tokens {
            self.read_pressure(token);
        }
        let pressures = &self.pressure_sight.pressures;
        let now_us = self.facts.now_us();
        let (active, polled) = (
            pressures.values().any(|p| p.said.is_some() || p.was_triggered(now_us)),
            pressures.values().any(|p| p.trigger.is_none()),
        );
        if active {
            self.plan(Task::Pressure, PRESSURE_LOOK_US);
        } else if polled {
            self.plan(Task::Pressure, PRESSURE_POLL_US);
        }
    }

    fn read_pressure(&mut self, token: u64) {
        let Some(pressure) = self.pressure_sight.pressures.get_mut(&token) else { return };
        let read = proc_file::read(&pressure.file)
            .ok()
            .and_then(|text| memory_file::pressure(&String::from_utf8_lossy(&text)));
        let Some((some, full)) = read else {
            self.end_pressure(token);
            return;
        };
        if let Some(fact) = pressure.look(some, full, self.facts.now_us()) {
            self.facts.say(Kind::MemoryPressure(fact));
        }
    }

    fn end_pressure(&mut self, token: u64) {
        let Some(mut pressure) = self.pressure_sight.pressures.remove(&token) else { return };
        if pressure.said.take().is_some() {
            self.facts.say(Kind::MemoryPressure(pressure.fact(0, 0, true)));
        }
    }
}

impl Pressure {
    /// Takes a reading; the fact, if it is worth one.
    fn look(&mut self, some: u32, full: u32, now_us: u64) -> Option<v1::MemoryPressure> {
        let steps = |share: u32| PRESSURE_STEPS.iter().filter(|&&step| share >= step).count();
        let reached = (steps(some), steps(full));
        let triggered = self.was_triggered(now_us);
        match self.said {
            // The averages follow the trigger by up to two seconds.
            None if (triggered && some >= PRESSURE_SAID_PERMYRIAD)
                || reached.0 > 1
                || reached.1 > 0 =>
            {
                self.said = Some(reached);
                Some(self.fact(some, full, false))
            }
            Some(_) if !triggered && some < PRESSURE_OVER_PERMYRIAD => {
                self.said = None;
                Some(self.fact(some, full, true))
            }
            Some(said) if reached.0 > said.0 || reached.1 > said.1 => {
                self.said = Some((reached.0.max(said.0), reached.1.max(said.1)));
                Some(self.fact(some, full, false))
            }
            _ => None,
        }
    }

    fn was_triggered(&self, now_us: u64) -> bool {
        self.triggered_us > 0 && self.triggered_us + PRESSURE_OVER_US > now_us
    }

    fn fact(&self, some: u32, full: u32, ended: bool) -> v1::MemoryPressure {
        v1::MemoryPressure {
            cgroup: self.cgroup.clone(),
            unit: of_path(&self.cgroup).unit,
            some_permyriad: some,
            full_permyriad: full,
            ended,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Readings of `some` and `full`, 2 s apart; `true` where the trigger came.
    #[track_caller]
    fn check(readings: &[(bool, u32, u32)], expected: &[(u32, u32, bool)]) {
        let mut pressure = Pressure {
            cgroup: String::new(),
            file: PathBuf::new(),
            trigger: None,
            said: None,
            triggered_us: 0,
        };
        let mut said = Vec::new();
        for (at, &(triggered, some, full)) in (1u64..).zip(readings) {
            let now_us = 100_000_000 + at * PRESSURE_LOOK_US;
            if triggered {
                pressure.triggered_us = now_us;
            }
            let fact = pressure.look(some, full, now_us);
            said.extend(fact.map(|f| (f.some_permyriad, f.full_permyriad, f.ended)));
        }
        assert_eq!(said, expected);
    }

    #[test]
    fn pressure_begins_grows_and_ends() {
        let over = [(false, 100, 0); 5];
        let mut readings =
            vec![(true, 180, 50), (true, 300, 60), (true, 1200, 700), (false, 900, 0)];
        readings.extend(over);
        check(&readings, &[(180, 50, false), (1200, 700, false), (100, 0, true)]);
    }

    #[test]
    fn without_a_trigger_the_averages_tell() {
        check(&[(false, 1100, 0), (false, 150, 0)], &[(1100, 0, false), (150, 0, true)]);
        check(&[(false, 600, 0), (false, 150, 0)], &[]);
    }
}
