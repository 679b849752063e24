//! Runtimes that serve by themselves: Node and pm2 (God.js, Worker.js), Java with Tomcat and Spring Boot, Go, Rust,
//! .NET.

use why502_proto::v1::AppEvent;

use super::{Pattern, line};

pub(super) const LINES: &[Pattern] = &[
    line(
        "node",
        AppEvent::HeapExhausted,
        "FATAL ERROR: {*}JavaScript heap out of memory",
        &[
            "FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory",
            "FATAL ERROR: Ineffective mark-compacts near heap limit Allocation failed - \
            JavaScript heap out of memory",
        ],
    ),
    line(
        "node",
        AppEvent::AddressInUse,
        "listen EADDRINUSE: address already in use {pool}",
        &["Error: listen EADDRINUSE: address already in use 127.0.0.1:3000"],
    ),
    line(
        "node",
        AppEvent::BootFailed,
        "Error: Cannot find module '{pool}'",
        &["Error: Cannot find module '/srv/app/server.js'"],
    ),
    line("node", AppEvent::FdsExhausted, "Error: accept EMFILE", &["Error: accept EMFILE"]),
    line(
        "pm2",
        AppEvent::WorkerCrashed,
        "App [{pool}:{*}] exited with code [{status}] via signal [{signal}]",
        &["2026-11-24T10:00:00: PM2 log: App [api:0] exited with code [1] via signal [SIGINT]"],
    ),
    line(
        "pm2",
        AppEvent::GaveUp,
        "Script {pool} had too many unstable restarts ({limit}). Stopped.",
        &["PM2      | Script /srv/app/server.js had too many unstable restarts (16). Stopped. \
            \"errored\""],
    ),
    line(
        "pm2",
        AppEvent::WorkerRecycled,
        "[PM2][WORKER] Process {*} restarted because it exceeds --max-memory-restart value \
        (current_memory={*} max_memory_limit={limit} ",
        &["[PM2][WORKER] Process 0 restarted because it exceeds --max-memory-restart value \
            (current_memory=210763776 max_memory_limit=104857600 [octets])"],
    ),
    line(
        "jvm",
        AppEvent::HeapExhausted,
        "java.lang.OutOfMemoryError: Java heap space",
        &[
            "Exception in thread \"main\" java.lang.OutOfMemoryError: Java heap space",
            "Terminating due to java.lang.OutOfMemoryError: Java heap space",
        ],
    ),
    line(
        "jvm",
        AppEvent::HeapExhausted,
        "java.lang.OutOfMemoryError: GC overhead limit exceeded",
        &["java.lang.OutOfMemoryError: GC overhead limit exceeded"],
    ),
    line(
        "jvm",
        AppEvent::HeapExhausted,
        "java.lang.OutOfMemoryError: Metaspace",
        &["java.lang.OutOfMemoryError: Metaspace"],
    ),
    line(
        "jvm",
        AppEvent::ForkFailed,
        "java.lang.OutOfMemoryError: unable to create ",
        &["java.lang.OutOfMemoryError: unable to create native thread: possibly out of memory \
            or process/resource limits reached"],
    ),
    line(
        "jvm",
        AppEvent::WorkerCrashed,
        "# A fatal error has been detected by the Java Runtime Environment",
        &["# A fatal error has been detected by the Java Runtime Environment:"],
    ),
    line(
        "jvm",
        AppEvent::AddressInUse,
        "java.net.BindException: Address already in use",
        &["Caused by: java.net.BindException: Address already in use"],
    ),
    line(
        "jvm",
        AppEvent::AddressInUse,
        "Web server failed to start. Port {limit} was already in use",
        &["Web server failed to start. Port 8080 was already in use."],
    ),
    line(
        "jvm",
        AppEvent::FdsExhausted,
        "Exception: Too many open files",
        &[
            "java.net.SocketException: Too many open files",
            "java.io.IOException: Too many open files",
        ],
    ),
    line(
        "jvm",
        AppEvent::HeaderTooLarge,
        "IllegalArgumentException: Request header is too large",
        &["java.lang.IllegalArgumentException: Request header is too large"],
    ),
    line(
        "jvm",
        AppEvent::ClientGone,
        "org.apache.catalina.connector.ClientAbortException",
        &["org.apache.catalina.connector.ClientAbortException: java.io.IOException: Broken pipe"],
    ),
    line(
        "go",
        AppEvent::FdsExhausted,
        "http: Accept error: {*}: too many open files",
        &["2026/11/24 10:00:00 http: Accept error: accept tcp [::]:8080: accept4: too many \
            open files; retrying in 5ms"],
    ),
    line(
        "go",
        AppEvent::AddressInUse,
        "listen tcp{*} {pool}: bind: address already in use",
        &[
            "2026/11/24 10:00:00 listen tcp :8080: bind: address already in use",
            "panic: listen tcp4 127.0.0.1:8080: bind: address already in use",
        ],
    ),
    line(
        "go",
        AppEvent::HeapExhausted,
        "fatal error: runtime: out of memory",
        &["fatal error: runtime: out of memory"],
    ),
    line(
        "rust",
        AppEvent::AddressInUse,
        "code: 98, kind: AddrInUse",
        &["Error: Os { code: 98, kind: AddrInUse, message: \"Address already in use\" }"],
    ),
    line(
        "dotnet",
        AppEvent::AddressInUse,
        "Failed to bind to address {pool}: address already in use",
        &["Unhandled exception. System.IO.IOException: Failed to bind to address \
            http://127.0.0.1:5000: address already in use."],
    ),
];
