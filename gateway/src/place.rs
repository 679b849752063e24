//! Where in a configuration something stands, and what of it was not understood.

use std::sync::Arc;

/// A line of a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Path as the gateway would name it.
    pub file: Arc<str>,
    /// From 1.
    pub line: u32,
}

/// What was not understood, and where. Never quotes the file beyond names of directives: it may not be a
/// configuration file at all.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What.
    pub text: String,
}
