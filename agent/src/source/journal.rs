//! Placeholder: the journal is not read yet.

use std::process::ExitCode;

use why502_proto::v1;

use crate::observe::{Marks, Observer};
use crate::source::Roots;

/// Says that the journal is not read.
pub async fn run(_roots: Roots, observer: Observer, _marks: Marks) {
    observer.blinded(v1::Source::Journal, "", "not built in yet", "");
    std::future::pending().await
}

/// The child process.
pub fn reader_main() -> ExitCode {
    ExitCode::FAILURE
}
