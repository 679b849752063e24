//! A bound on how many facts of one sort are said in a second.

/// So many in a second, and a count of the rest.
#[derive(Debug)]
pub(super) struct Quota {
    per_second_max: u32,
    second: u64,
    taken: u32,
    left_out: u64,
}

impl Quota {
    pub(super) fn new(per_second_max: u32) -> Self {
        Self { per_second_max, second: 0, taken: 0, left_out: 0 }
    }

    pub(super) fn take(&mut self, now_us: u64) -> bool {
        let second = now_us / 1_000_000;
        if second != self.second {
            (self.second, self.taken) = (second, 0);
        }
        if self.taken >= self.per_second_max {
            self.leave_out();
            return false;
        }
        self.taken += 1;
        true
    }

    pub(super) fn leave_out(&mut self) {
        self.left_out += 1;
    }

    pub(super) fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.left_out)
    }
}
