//! Ruby: puma's cluster.rb, unicorn's http_server.rb and socket_helper.rb, Passenger's Core/Controller.

use why502_proto::v1::AppEvent;

use super::{Pattern, line};

pub(super) const LINES: &[Pattern] = &[
    line(
        "puma",
        AppEvent::WorkerTimedOut,
        "! Terminating timed out worker (Worker {*} failed to check in within {seconds} \
        seconds): {pid}",
        &["[12] ! Terminating timed out worker (Worker 0 failed to check in within 60 \
            seconds): 31"],
    ),
    line(
        "puma",
        AppEvent::BootFailed,
        "! Terminating timed out worker (Worker {*} failed to boot within {seconds} seconds): \
        {pid}",
        &["[12] ! Terminating timed out worker (Worker 0 failed to boot within 60 seconds): 31"],
    ),
    line(
        "unicorn",
        AppEvent::WorkerTimedOut,
        "worker={*} PID:{pid} timeout ({*} > {seconds}s), killing",
        &["E, [2026-11-24T10:00:00.000000 #811] ERROR -- : worker=3 PID:812 timeout (61s > \
            60s), killing"],
    ),
    line(
        "unicorn",
        AppEvent::WorkerCrashed,
        "reaped #<Process::Status: pid {pid} SIG{*} (signal {signal})> worker=",
        &["E, [2026-11-24T10:00:00.000000 #811] ERROR -- : reaped #<Process::Status: pid 812 \
            SIGKILL (signal 9)> worker=3"],
    ),
    line(
        "unicorn",
        AppEvent::WorkerCrashed,
        "reaped #<Process::Status: pid {pid} exit {status}> worker=",
        &["E, [2026-11-24T10:00:00.000000 #811] ERROR -- : reaped #<Process::Status: pid 812 \
            exit 1> worker=3"],
    ),
    line(
        "unicorn",
        AppEvent::AddressInUse,
        "adding listener failed addr={pool} (in use)",
        &["E, [2026-11-24T10:00:00.000000 #811] ERROR -- : adding listener failed \
            addr=127.0.0.1:8080 (in use)"],
    ),
    line(
        "passenger",
        AppEvent::WorkerCrashed,
        "Sending 502 response: application {*}",
        &["[ E 2026-11-24 10:00:00.0 12/T3 age/Cor/Con/InternalUtils.cpp:96 ]: [Client 1-2] \
            Sending 502 response: application did not send a complete response"],
    ),
    line(
        "passenger",
        AppEvent::WorkersSaturated,
        "Returning HTTP 503 due to: Request queue full",
        &["[ W 2026-11-24 10:00:00.0 12/T3 age/Cor/Con/CheckoutSession.cpp:283 ]: [Client 1-2] \
            Returning HTTP 503 due to: Request queue full (configured max. size: 100)"],
    ),
    line(
        "ruby",
        AppEvent::AddressInUse,
        "Address already in use - bind(2) for {pool} (Errno::EADDRINUSE)",
        &["/usr/lib/ruby/tcp.rb:9:in `initialize': Address already in use - bind(2) for \
            \"127.0.0.1\" port 9292 (Errno::EADDRINUSE)"],
    ),
];
