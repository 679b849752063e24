//! Gateway logs, read without any agent: `why502 decode`, and lines that are pushed to the collector.
//!
//! [`scan`] goes through bytes and reads the few lines that tell of failures, [`tally`] keeps what they told by kind of
//! failure, [`report`] says what may be behind each. Which causes fit comes from the rules themselves.

pub mod report;
pub mod scan;
pub mod tally;
