//! What systemd itself writes about units: facts by MESSAGE_ID, and by text where systemd gives none.
//!
//! See sd-messages.h. The records of PID 1 are in `init.scope`; the unit that they speak of is in `UNIT`.

use why502_proto::{Kind, v1};

use super::record::Record;
use why502_gateway::redact;

/// Facts in a record of systemd, its coredump and OOM helpers, or journald. All of them are told by fields that only
/// these programs can set.
pub(super) fn facts(record: &Record) -> Vec<Kind> {
    let id = record.get("MESSAGE_ID");
    let fact = match record.get("_SYSTEMD_UNIT") {
        "init.scope" if record.get("_PID") == "1" => of_manager(record, id),
        "systemd-oomd.service" => oomd_line(record.get("MESSAGE")),
        unit if unit.starts_with("systemd-coredump@") && id == COREDUMP => Some(coredump(record)),
        _ if record.get("_TRANSPORT") == "driver" => dropped(record, id),
        unit => spawn_failed(record, unit, id),
    };
    fact.into_iter().collect()
}

const COREDUMP: &str = "fc2e22bc6ee647b6b90729ab34a250b1";
const JOURNAL_DROPPED: &str = "a596d6fe7bfa4994828e72309e95d61e";
const JOURNAL_MISSED: &str = "e9bf28e6e834481bb6f48f548ad13606";
const SPAWN_FAILED: &str = "641257651c1b4ec9a8624d7a40a9e1e7";
const UNIT_FAILED: &str = "be02cf6855d2428ba40df7e9d022f03d";
const UNIT_OOMD_KILL: &str = "d989611b15e44c9dbf31e3c81256e4ed";
const UNIT_OUT_OF_MEMORY: &str = "fe6faa94e7774663a0da52717891d8ef";
const UNIT_PROCESS_EXIT: &str = "98e322203f7a4ed290d09fe03c09fe15";
const UNIT_RESTART_SCHEDULED: &str = "5eb03494b6584870a536b337290809b3";

/// Longest name of a unit, UNIT_NAME_MAX.
const UNIT_NAME_MAX: usize = 255;

fn unit_of(record: &Record) -> Option<String> {
    let unit = record.get("UNIT");
    let serves = unit.ends_with(".service") || unit.ends_with(".socket");
    (serves && unit.len() <= UNIT_NAME_MAX).then(|| unit.to_owned())
}

fn of_manager(record: &Record, id: &str) -> Option<Kind> {
    let unit = unit_of(record)?;
    Some(match id {
        UNIT_PROCESS_EXIT => Kind::UnitProcessExit(v1::UnitProcessExit {
            unit,
            code: record.get("EXIT_CODE").to_owned(),
            status: record.number("EXIT_STATUS").unwrap_or_default(),
            command: redact::line(record.get("COMMAND")),
        }),
        UNIT_FAILED => Kind::UnitStartFailed(v1::UnitStartFailed {
            unit,
            result: record.get("JOB_RESULT").to_owned(),
        }),
        UNIT_RESTART_SCHEDULED => Kind::UnitRestartScheduled(v1::UnitRestartScheduled {
            unit,
            restarts: record.number("N_RESTARTS").unwrap_or_default(),
        }),
        // memory.events counts what either killer of the kernel took from the cgroup: the scope is not told.
        UNIT_OUT_OF_MEMORY => Kind::OomKill(v1::OomKill {
            unit,
            witness: v1::Witness::Journal.into(),
            ..v1::OomKill::default()
        }),
        UNIT_OOMD_KILL => Kind::OomKill(v1::OomKill {
            scope: v1::OomScope::Userspace.into(),
            unit,
            count: record.number("N_PROCESSES").unwrap_or_default(),
            witness: v1::Witness::Journal.into(),
            ..v1::OomKill::default()
        }),
        SPAWN_FAILED => return spawn_failed(record, &unit, id),
        _ => return manager_line(unit, record.get("MESSAGE")),
    })
}

/// What systemd says only in words: "api.service: Start request repeated too quickly."
fn manager_line(unit: String, message: &str) -> Option<Kind> {
    let text = message.strip_prefix(unit.as_str())?.strip_prefix(": ")?;
    if text.starts_with("Start request repeated too quickly") {
        return Some(Kind::UnitStartLimitHit(v1::UnitStartLimitHit { unit }));
    }
    if let Some(rest) = text.strip_prefix("Watchdog timeout (limit ") {
        let limit_ms = rest.split(')').next().and_then(time_span_ms).unwrap_or_default();
        return Some(Kind::UnitWatchdogTimeout(v1::UnitWatchdogTimeout { unit, limit_ms }));
    }
    let (state, rest) = text.strip_prefix("State '")?.split_once('\'')?;
    rest.starts_with(" timed out. Killing")
        .then(|| Kind::UnitStopTimedOut(v1::UnitStopTimedOut { unit, state: redact::line(state) }))
}

/// A time span as systemd writes it: "1min 30s", "500ms", "2h". See systemd.time(7).
fn time_span_ms(text: &str) -> Option<u64> {
    let mut total_us: u64 = 0;
    for part in text.split_ascii_whitespace() {
        let digits = part.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, unit) = part.split_at(digits);
        let unit_us: u64 = match unit {
            "us" => 1,
            "ms" => 1000,
            "s" => 1_000_000,
            "min" => 60_000_000,
            "h" => 3_600_000_000,
            "d" => 86_400_000_000,
            "w" => 604_800_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let fraction: String = fraction.chars().chain("000000".chars()).take(6).collect();
        let us = whole.parse::<u64>().ok()?.checked_mul(unit_us)?;
        let part_us = fraction.parse::<u64>().ok()?.checked_mul(unit_us)? / 1_000_000;
        total_us = total_us.checked_add(us)?.checked_add(part_us)?;
    }
    Some(total_us / 1000)
}

/// The process that was to become the program reports it itself, so it is in the cgroup of its unit already.
fn spawn_failed(record: &Record, unit: &str, id: &str) -> Option<Kind> {
    if id != SPAWN_FAILED || !(unit.ends_with(".service") || unit.ends_with(".socket")) {
        return None;
    }
    let message = record.get("MESSAGE");
    let step = message
        .split_once("Failed at step ")
        .and_then(|(_, rest)| rest.split(' ').next())
        // "Failed to locate executable": the step before EXEC, same remedy.
        .unwrap_or("EXEC");
    let error = message.rsplit_once(": ").map_or("", |(_, error)| error);
    Some(Kind::UnitSpawnFailed(v1::UnitSpawnFailed {
        unit: unit.to_owned(),
        executable: redact::line(record.get("EXECUTABLE")),
        step: redact::line(step),
        error: redact::line(error),
    }))
}

fn coredump(record: &Record) -> Kind {
    let first_line = record.get("MESSAGE").lines().next().unwrap_or_default();
    Kind::CrashReported(v1::CrashReported {
        pid: record.number("COREDUMP_PID").unwrap_or_default(),
        comm: record.get("COREDUMP_COMM").to_owned(),
        exe: redact::line(record.get("COREDUMP_EXE")),
        unit: record.get("COREDUMP_UNIT").to_owned(),
        signal: record.number("COREDUMP_SIGNAL").unwrap_or_default(),
        text: redact::line(first_line),
        core_stored: !record.get("COREDUMP_FILENAME").is_empty(),
        witness: v1::Witness::Journal.into(),
    })
}

/// "Killed /system.slice/api.service due to memory pressure for /system.slice being 60.12% > 50.00% for > 20s with
/// reclaim activity", or "... due to memory used (…) / total (…) and swap used (…)".
fn oomd_line(message: &str) -> Option<Kind> {
    let (path, why) = message.strip_prefix("Killed ")?.split_once(" due to ")?;
    let limit = why.strip_prefix("memory pressure for ").and_then(|rest| rest.split(' ').next());
    let member = crate::source::cgroup::of_path(path);
    Some(Kind::OomKill(v1::OomKill {
        scope: v1::OomScope::Userspace.into(),
        unit: member.unit,
        container: member.container,
        cgroup: redact::line(path),
        limit_cgroup: limit.unwrap_or_default().to_owned(),
        witness: v1::Witness::Journal.into(),
        ..v1::OomKill::default()
    }))
}

fn dropped(record: &Record, id: &str) -> Option<Kind> {
    let message = record.get("MESSAGE");
    let (unit, count) = match id {
        JOURNAL_DROPPED => {
            let unit = message.rsplit(' ').next().unwrap_or_default();
            (if unit.ends_with(".service") { unit } else { "" }, record.number("N_DROPPED"))
        }
        JOURNAL_MISSED => ("", message.split(' ').nth(1).and_then(|n| n.parse().ok())),
        _ => return None,
    };
    Some(Kind::JournalDropped(v1::JournalDropped {
        unit: unit.to_owned(),
        count: count.unwrap_or_default(),
    }))
}

#[cfg(test)]
mod tests {
    use why502_proto::{fields_text, kind_name};

    use super::super::record::tests::record;
    use super::*;

    /// Facts of a record of PID 1 with these fields more.
    #[track_caller]
    fn check(fields: &str, expect: &str) {
        check_record(&format!("_SYSTEMD_UNIT=init.scope\n_PID=1\n{fields}"), expect);
    }

    #[track_caller]
    fn check_record(fields: &str, expect: &str) {
        let facts = facts(&record(fields));
        let said: Vec<String> =
            facts.iter().map(|k| format!("{} {}", kind_name(k), fields_text(k))).collect();
        assert_eq!(said.join("\n"), expect);
    }

    #[test]
    fn exits_restarts_and_failed_starts() {
        check(
            "UNIT=api.service
             MESSAGE_ID=98e322203f7a4ed290d09fe03c09fe15
             EXIT_CODE=killed
             EXIT_STATUS=9
             COMMAND=ExecStart",
            "unit_process_exit unit=api.service code=killed status=9 command=ExecStart",
        );
        check(
            "UNIT=api.service
             MESSAGE_ID=5eb03494b6584870a536b337290809b3
             N_RESTARTS=4",
            "unit_restart_scheduled unit=api.service restarts=4",
        );
        check(
            "UNIT=api.service
             MESSAGE_ID=be02cf6855d2428ba40df7e9d022f03d
             JOB_TYPE=start
             JOB_RESULT=timeout",
            "unit_start_failed unit=api.service result=timeout",
        );
    }

    #[test]
    fn what_has_only_words() {
        let line = |text: &str| format!("UNIT=api.service\nMESSAGE=api.service: {text}");
        check(
            &line("Start request repeated too quickly."),
            "unit_start_limit_hit unit=api.service",
        );
        check(
            &line("Watchdog timeout (limit 1min 30s)!"),
            "unit_watchdog_timeout unit=api.service limit_ms=90000",
        );
        check(
            &line("Watchdog timeout (limit 1.5s)!"),
            "unit_watchdog_timeout unit=api.service limit_ms=1500",
        );
        check(
            &line("State 'stop-sigterm' timed out. Killing."),
            "unit_stop_timed_out unit=api.service state=stop-sigterm",
        );
        check(&line("Consumed 1.2s CPU time."), "");
    }

    #[test]
    fn the_same_words_from_an_app_say_nothing() {
        check_record(
            "_SYSTEMD_UNIT=api.service
             _PID=77
             UNIT=db.service
             MESSAGE=db.service: Start request repeated too quickly.",
            "",
        );
        check_record(
            "_SYSTEMD_UNIT=api.service
             _PID=77
             UNIT=db.service
             MESSAGE_ID=98e322203f7a4ed290d09fe03c09fe15
             EXIT_CODE=killed",
            "",
        );
    }

    #[test]
    fn a_program_that_cannot_be_executed() {
        check_record(
            "_SYSTEMD_UNIT=api.service
             _PID=77
             UNIT=api.service
             MESSAGE_ID=641257651c1b4ec9a8624d7a40a9e1e7
             MESSAGE=api.service: Failed at step CHDIR spawning /srv/app: No such file or directory
             EXECUTABLE=/srv/app",
            r#"unit_spawn_failed unit=api.service executable=/srv/app step=CHDIR error="No such file or directory""#,
        );
    }

    #[test]
    fn memory_killers() {
        check(
            "UNIT=api.service
             MESSAGE_ID=fe6faa94e7774663a0da52717891d8ef",
            "oom_kill unit=api.service witness=journal",
        );
        check(
            "UNIT=api.service
             MESSAGE_ID=d989611b15e44c9dbf31e3c81256e4ed
             N_PROCESSES=3",
            "oom_kill scope=userspace unit=api.service count=3 witness=journal",
        );
        check_record(
            "_SYSTEMD_UNIT=systemd-oomd.service
             MESSAGE=Killed /system.slice/api.service due to memory pressure for /system.slice being 60.12% > 50.00% for > 20s with reclaim activity",
            "oom_kill scope=userspace unit=api.service cgroup=/system.slice/api.service \
             limit_cgroup=/system.slice witness=journal",
        );
    }

    #[test]
    fn cores_and_gaps() {
        check_record(
            "_SYSTEMD_UNIT=systemd-coredump@3-812-0.service
             MESSAGE_ID=fc2e22bc6ee647b6b90729ab34a250b1
             MESSAGE=Process 801 (app) of user 33 dumped core.
             COREDUMP_PID=801
             COREDUMP_COMM=app
             COREDUMP_EXE=/usr/bin/app
             COREDUMP_UNIT=api.service
             COREDUMP_SIGNAL=11
             COREDUMP_FILENAME=/var/lib/systemd/coredump/core.app.zst",
            r#"crash_reported pid=801 comm=app exe=/usr/bin/app unit=api.service signal=11 text="Process 801 (app) of user 33 dumped core." core_stored=true witness=journal"#,
        );
        check_record(
            "_SYSTEMD_UNIT=systemd-journald.service
             _TRANSPORT=driver
             MESSAGE_ID=a596d6fe7bfa4994828e72309e95d61e
             MESSAGE=Suppressed 8123 messages from api.service
             N_DROPPED=8123",
            "journal_dropped unit=api.service count=8123",
        );
    }
}
