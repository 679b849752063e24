//! Python: gunicorn's arbiter.py, sock.py and http/errors.py; uWSGI's master.c, master_utils.c, socket.c, uwsgi.c and
//! proto/uwsgi.c; uvicorn's supervisors/multiprocess.py; asyncio.

use why502_proto::v1::AppEvent;

use super::{Pattern, line};

pub(super) const LINES: &[Pattern] = &[
    line(
        "gunicorn",
        AppEvent::WorkerTimedOut,
        "WORKER TIMEOUT (pid:{pid})",
        &["[2026-11-24 10:00:00 +0000] [70] [CRITICAL] WORKER TIMEOUT (pid:77)"],
    ),
    line(
        "gunicorn",
        AppEvent::WorkerCrashed,
        "Worker (pid:{pid}) was sent {signal}!",
        &[
            "[2026-11-24 10:00:00 +0000] [70] [ERROR] Worker (pid:77) was sent SIGKILL! Perhaps \
            out of memory?",
            "[2026-11-24 10:00:00 +0000] [70] [WARNING] Worker (pid:77) was sent SIGSEGV!",
        ],
    ),
    line(
        "gunicorn",
        AppEvent::WorkerCrashed,
        "Worker with pid {pid} was terminated due to signal {signal}",
        &["[2026-11-24 10:00:00 +0000] [70] [WARNING] Worker with pid 77 was terminated due to \
            signal 9"],
    ),
    line(
        "gunicorn",
        AppEvent::WorkerCrashed,
        "Worker (pid:{pid}) exited with code {status}",
        &[
            "[2026-11-24 10:00:00 +0000] [70] [ERROR] Worker (pid:77) exited with code 1",
            "[2026-11-24 10:00:00 +0000] [70] [ERROR] Worker (pid:77) exited with code 3.",
        ],
    ),
    line(
        "gunicorn",
        AppEvent::BootFailed,
        "Worker failed to boot.",
        &[
            "[2026-11-24 10:00:00 +0000] [70] [ERROR] Reason: Worker failed to boot.",
            "gunicorn.errors.HaltServer: <HaltServer 'Worker failed to boot.' 3>",
        ],
    ),
    line(
        "gunicorn",
        AppEvent::BootFailed,
        "App failed to load.",
        &["[2026-11-24 10:00:00 +0000] [70] [ERROR] Reason: App failed to load."],
    ),
    line(
        "gunicorn",
        AppEvent::AddressInUse,
        "Connection in use: {pool}",
        &["[2026-11-24 10:00:00 +0000] [70] [ERROR] Connection in use: ('127.0.0.1', 8000)"],
    ),
    line(
        "gunicorn",
        AppEvent::WorkerRecycled,
        "Autorestarting worker after current request",
        &["[2026-11-24 10:00:00 +0000] [77] [INFO] Autorestarting worker after current request."],
    ),
    line(
        "gunicorn",
        AppEvent::HeaderTooLarge,
        "Request Line is too large ({*} > {limit})",
        &["[2026-11-24 10:00:00 +0000] [77] [WARNING] Invalid request from ip=10.0.0.1: \
            Request Line is too large (8190 > 4094)"],
    ),
    line(
        "uwsgi",
        AppEvent::WorkerTimedOut,
        "HARAKIRI ON WORKER {*} (pid: {pid}, try: ",
        &[
            "Tue Nov 24 10:00:00 2026 - *** HARAKIRI ON WORKER 1 (pid: 99, try: 1) ***",
            "*** HARAKIRI ON WORKER 1 (pid: 99, try: 1, graceful: yes) ***",
        ],
    ),
    line(
        "uwsgi",
        AppEvent::WorkerCrashed,
        "DAMN ! worker {*} (pid: {pid}) died, killed by signal {signal} :(",
        &["DAMN ! worker 1 (pid: 99) died, killed by signal 9 :( trying respawn ..."],
    ),
    line(
        "uwsgi",
        AppEvent::WorkerCrashed,
        "DAMN ! worker {*} (pid: {pid}) died :(",
        &["DAMN ! worker 1 (pid: 99) died :( trying respawn ..."],
    ),
    line(
        "uwsgi",
        AppEvent::WorkerCrashed,
        "DAMN ! worker {*} (pid: {pid}) M{*}STERIOUSLY killed by signal {signal} :(",
        &[
            "DAMN ! worker 1 (pid: 99) MISTERIOUSLY killed by signal 11 :( trying respawn ...",
            "DAMN ! worker 1 (pid: 99) MYSTERIOUSLY killed by signal 11 :( trying respawn ...",
        ],
    ),
    line(
        "uwsgi",
        AppEvent::QueueFull,
        "listen queue of socket \"{pool}\" (fd: {*}) full !!! ({*}/{limit})",
        &["*** uWSGI listen queue of socket \"127.0.0.1:8001\" (fd: 3) full !!! (101/100) ***"],
    ),
    line(
        "uwsgi",
        AppEvent::HeaderTooLarge,
        "invalid request block size: {*} (max {limit})...skip",
        &["invalid request block size: 21573 (max 4096)...skip"],
    ),
    line(
        "uwsgi",
        AppEvent::ClientGone,
        "SIGPIPE: writing to a closed pipe/socket/fd (probably the client disconnected)",
        &["SIGPIPE: writing to a closed pipe/socket/fd (probably the client disconnected) on \
            request /slow (ip 10.98.0.1) !!!"],
    ),
    line(
        "uwsgi",
        AppEvent::AddressInUse,
        "probably another instance of uWSGI is running on the same address ({pool}).",
        &["probably another instance of uWSGI is running on the same address (127.0.0.1:8001)."],
    ),
    line(
        "uwsgi",
        AppEvent::BootFailed,
        "unable to load app {*} (mountpoint=",
        &["unable to load app 0 (mountpoint='') (callable not found or import error)"],
    ),
    line(
        "uwsgi",
        AppEvent::BootFailed,
        "python application found, check your startup logs for errors",
        &["--- no python application found, check your startup logs for errors ---"],
    ),
    line(
        "uwsgi",
        AppEvent::WorkerRecycled,
        "...The work of process {pid} is done. Seeya!",
        &["...The work of process 99 is done. Seeya!"],
    ),
    line(
        "uwsgi",
        AppEvent::WorkerRecycled,
        "worker {*} lifetime reached, it was running for {seconds} second(s)",
        &["worker 1 lifetime reached, it was running for 3601 second(s)"],
    ),
    line(
        "uwsgi",
        AppEvent::ForkFailed,
        "fork(): Resource temporarily unavailable [",
        &["fork(): Resource temporarily unavailable [core/uwsgi.c line 1901]"],
    ),
    line(
        "uvicorn",
        AppEvent::WorkerCrashed,
        "Child process [{pid}] died",
        &["INFO:     Child process [31] died"],
    ),
    line(
        "python",
        AppEvent::AddressInUse,
        "[Errno 98] error while attempting to bind on address {pool}: address already in use",
        &["ERROR:    [Errno 98] error while attempting to bind on address ('127.0.0.1', 8000): \
            address already in use"],
    ),
    line(
        "python",
        AppEvent::AddressInUse,
        "Error: [Errno 98] Address already in use",
        &["OSError: [Errno 98] Address already in use"],
    ),
    line(
        "python",
        AppEvent::FdsExhausted,
        "Error: [Errno 24] Too many open files",
        &["OSError: [Errno 24] Too many open files"],
    ),
    line(
        "python",
        AppEvent::ForkFailed,
        "RuntimeError: can't start new thread",
        &["RuntimeError: can't start new thread"],
    ),
];
