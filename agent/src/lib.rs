//! Watches one host for what makes a gateway answer 502, and streams it as typed facts.
//!
//! Sources read, [`observe`] carries what they saw to one place, the spool makes it durable, the stream delivers
//! it. Nothing flows the other way but acknowledgements.

pub mod cli;
pub mod clock;
pub mod config;
pub mod delivery;
pub mod doctor;
pub mod hostfd;
pub mod log;
pub mod observe;
pub mod run;
pub mod source;
pub mod spool;
pub mod stream;
