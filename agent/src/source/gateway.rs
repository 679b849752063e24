//! Placeholder: no gateway is read yet.

use why502_proto::v1;

use crate::observe::{Marks, Observer};
use crate::source::{Interest, Roots};

/// Says that gateways are not read.
pub async fn run(_roots: Roots, observer: Observer, _tell: impl Fn(Interest), _marks: Marks) {
    observer.blinded(v1::Source::Gateway, "", "not built in yet", "");
    std::future::pending().await
}
