//! Servers that stand as origin, and supervisors.

use why502_proto::v1::AppEvent;

use super::{Pattern, line};

pub(super) const LINES: &[Pattern] = &[
    line(
        "nginx",
        AppEvent::WorkerCrashed,
        "worker process {pid} exited on signal {signal}",
        &["2026/11/24 10:00:00 [alert] 30#30: worker process 31 exited on signal 11 (core \
            dumped)"],
    ),
    line(
        "nginx",
        AppEvent::GaveUp,
        "worker process {pid} exited with fatal code {status} and cannot be respawned",
        &["2026/11/24 10:00:00 [alert] 30#30: worker process 31 exited with fatal code 2 and \
            cannot be respawned"],
    ),
    line(
        "nginx",
        AppEvent::AddressInUse,
        "bind() to {pool} failed (98: Address already in use)",
        &["nginx: [emerg] bind() to 0.0.0.0:80 failed (98: Address already in use)"],
    ),
    line(
        "nginx",
        AppEvent::FdsExhausted,
        "accept4() failed (24: Too many open files)",
        &["2026/11/24 10:00:00 [crit] 31#31: accept4() failed (24: Too many open files)"],
    ),
    line(
        "apache",
        AppEvent::WorkersSaturated,
        "server reached MaxRequestWorkers setting, consider raising",
        &["[mpm_event:error] [pid 12] AH00484: server reached MaxRequestWorkers setting, \
            consider raising the MaxRequestWorkers setting"],
    ),
    line(
        "apache",
        AppEvent::WorkerCrashed,
        "AH00052: child pid {pid} exit signal {*} ({signal})",
        &["[core:notice] [pid 12] AH00052: child pid 31 exit signal Segmentation fault (11)"],
    ),
    line(
        "apache",
        AppEvent::AddressInUse,
        "Address already in use: AH00072: make_sock: could not bind to address {pool}",
        &["(98)Address already in use: AH00072: make_sock: could not bind to address [::]:80"],
    ),
    line(
        "supervisord",
        AppEvent::WorkerCrashed,
        "exited: {pool} (terminated by {signal}; not expected)",
        &["2026-11-24 10:00:00,000 INFO exited: api (terminated by SIGKILL; not expected)"],
    ),
    line(
        "supervisord",
        AppEvent::WorkerCrashed,
        "exited: {pool} (exit status {status}; not expected)",
        &["2026-11-24 10:00:00,000 INFO exited: api (exit status 1; not expected)"],
    ),
    line(
        "supervisord",
        AppEvent::GaveUp,
        "gave up: {pool} entered FATAL state",
        &["2026-11-24 10:00:00,000 INFO gave up: api entered FATAL state, too many start \
            retries too quickly"],
    ),
];
