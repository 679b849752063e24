//! Jobs under way. systemd tells that a job is there, but its type only as long as it is; a short one is over before
//! the answer, and then what the unit did meanwhile shows it.

use std::collections::BTreeMap;

/// How many jobs may be under way; a boot queues a few hundred.
const JOBS_MAX: usize = 4096;

/// Jobs by number.
#[derive(Debug, Default)]
pub(super) struct Jobs(BTreeMap<u32, Job>);

/// One job.
#[derive(Debug, Default)]
pub(super) struct Job {
    pub(super) unit: String,
    /// start, stop, restart, ...; "" while not known.
    pub(super) kind: String,
    pub(super) by: String,
    /// The unit stopped since the job was queued.
    stopped: bool,
}

impl Jobs {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Begins a job. At the bound the job is not followed: its end is told without its beginning.
    pub(super) fn begin(&mut self, id: u32, job: Job) {
        if self.0.len() < JOBS_MAX {
            self.0.insert(id, job);
        }
    }

    /// Whether a job of this unit is under way.
    pub(super) fn has(&self, unit: &str) -> bool {
        self.0.values().any(|job| job.unit == unit)
    }

    /// The unit went from one state to another.
    pub(super) fn moved(&mut self, unit: &str, before: &str, after: &str) {
        let ran = matches!(before, "active" | "activating" | "reloading" | "deactivating");
        if ran && matches!(after, "deactivating" | "inactive" | "failed") {
            self.0.values_mut().filter(|job| job.unit == unit).for_each(|job| job.stopped = true);
        }
    }

    /// Ends a job. `active` is what the unit is now.
    pub(super) fn end(&mut self, id: u32, result: &str, active: &str) -> Job {
        let mut job = self.0.remove(&id).unwrap_or_default();
        if job.kind.is_empty() && result == "done" {
            job.kind = match (active, job.stopped) {
                ("inactive" | "failed", true) => "stop",
                ("active", true) => "restart",
                ("active", false) => "start",
                _ => "",
            }
            .to_owned();
        }
        // The second half of a restart is called start.
        if job.kind == "start" && job.stopped {
            job.kind = "restart".into();
        }
        job
    }
}

impl Job {
    pub(super) fn new(unit: &str, kind: &str, by: String) -> Self {
        Self { unit: unit.to_owned(), kind: kind.to_owned(), by, stopped: false }
    }
}

/// The job that a command asks for: "systemctl stop api (…" is "stop". "" where it names none.
pub(super) fn kind_of_command(by: &str) -> &'static str {
    let words: Vec<&str> = by.split('(').next().unwrap_or_default().split(' ').collect();
    const KINDS: &[&str] = &["start", "stop", "restart", "try-restart", "reload"];
    KINDS.iter().find(|kind| words.contains(kind)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(moves: &[(&str, &str)], active: &str, expect: &str) {
        let mut jobs = Jobs::default();
        jobs.begin(7, Job::new("api.service", "", String::new()));
        for (before, after) in moves {
            jobs.moved("api.service", before, after);
        }
        assert_eq!(jobs.end(7, "done", active).kind, expect);
        assert!(!jobs.has("api.service"));
    }

    #[test]
    fn what_the_unit_did_shows_what_was_asked() {
        check(&[("inactive", "active")], "active", "start");
        check(&[("failed", "activating"), ("activating", "active")], "active", "start");
        check(&[("active", "deactivating"), ("deactivating", "inactive")], "inactive", "stop");
        check(&[("active", "deactivating"), ("inactive", "active")], "active", "restart");
        check(&[], "inactive", "");
    }

    #[test]
    fn a_command_names_its_job() {
        assert_eq!(kind_of_command("systemctl try-restart api (pid 1, user root)"), "try-restart");
        assert_eq!(kind_of_command("systemctl enable --now api (pid 1)"), "");
        assert_eq!(kind_of_command(""), "");
    }
}
