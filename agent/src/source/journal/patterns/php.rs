//! PHP: fpm_process_ctl.c, fpm_children.c, fpm_request.c and fpm_sockets.c of php-src.

use why502_proto::v1::AppEvent;

use super::{Pattern, line};

pub(super) const LINES: &[Pattern] = &[
    line(
        "php-fpm",
        AppEvent::WorkersSaturated,
        "[pool {pool}] server reached pm.max_children setting ({limit})",
        &["[24-Nov-2026 10:00:00] WARNING: [pool www] server reached pm.max_children setting \
            (5), consider raising it"],
    ),
    line(
        "php-fpm",
        AppEvent::WorkersSaturated,
        "[pool {pool}] server reached max_children setting ({limit})",
        &["WARNING: [pool www] server reached max_children setting (5), consider raising it"],
    ),
    line(
        "php-fpm",
        AppEvent::WorkersSaturated,
        "The maximum number of processes has been reached. Please review your configuration and \
        consider raising 'process.max'",
        &["WARNING: The maximum number of processes has been reached. Please review your \
            configuration and consider raising 'process.max'"],
    ),
    line(
        "php-fpm",
        AppEvent::WorkerCrashed,
        "[pool {pool}] child {pid} exited on signal {signal} (",
        &[
            "WARNING: [pool www] child 4127 exited on signal 11 (SIGSEGV - core dumped) after \
            12.345678 seconds from start",
            "WARNING: [pool shop] child 88 exited on signal 9 (SIGKILL) after 1.000001 seconds \
            from start",
        ],
    ),
    line(
        "php-fpm",
        AppEvent::WorkerCrashed,
        "[pool {pool}] child {pid} exited with code {status} after",
        &["WARNING: [pool www] child 31 exited with code 255 after 0.031337 seconds from start"],
    ),
    line(
        "php-fpm",
        AppEvent::WorkerCrashed,
        "failed processes threshold ({limit} in {seconds} sec) is reached, initiating reload",
        &["WARNING: failed processes threshold (10 in 60 sec) is reached, initiating reload"],
    ),
    line(
        "php-fpm",
        AppEvent::WorkerTimedOut,
        "[pool {pool}] child {pid}, script '{*}' (request: {*}) execution timed out ({seconds} \
        sec), terminating",
        &["WARNING: [pool www] child 4127, script '/srv/a.php' (request: \"GET /a.php?x=(1)\") \
            execution timed out (2.481532 sec), terminating"],
    ),
    line(
        "php-fpm",
        AppEvent::SlowRequest,
        "[pool {pool}] child {pid}, script '{*}' (request: {*}) executing too slow ({seconds} \
        sec), logging",
        &["WARNING: [pool www] child 4127, script '/srv/a.php' (request: \"GET /a.php\") \
            executing too slow (1.003311 sec), logging"],
    ),
    line(
        "php-fpm",
        AppEvent::ForkFailed,
        "[pool {pool}] fork() failed",
        &["ERROR: [pool www] fork() failed: Resource temporarily unavailable (11)"],
    ),
    line(
        "php-fpm",
        AppEvent::AddressInUse,
        "unable to bind listening socket for address '{pool}': Address already in use",
        &["ERROR: unable to bind listening socket for address '127.0.0.1:9000': Address \
            already in use (98)"],
    ),
    line(
        "php-fpm",
        AppEvent::AddressInUse,
        "Another FPM instance seems to already listen on {pool}",
        &["ERROR: Another FPM instance seems to already listen on /run/php/php8.2-fpm.sock"],
    ),
    line(
        "php",
        AppEvent::HeapExhausted,
        "Allowed memory size of {limit} bytes exhausted",
        &["PHP Fatal error:  Allowed memory size of 134217728 bytes exhausted (tried to \
            allocate 20480 bytes) in /srv/a.php on line 3"],
    ),
];
