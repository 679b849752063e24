//! Errors with their causes, as one line.

use std::error::Error;

/// `error` and what is behind it: a log or a terminal says the whole of it once.
pub fn chain(error: &dyn Error) -> String {
    let causes = std::iter::successors(Some(error), |&error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
