//! The collector as its peers meet it: real sockets, real files, a real child process.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod incidents;
mod ingest;
mod killed;
mod rig;
mod tls;
