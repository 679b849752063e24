//! nginx: one running (or at least configured) instance, and the logs it writes. What its configuration and its lines
//! mean is read by [`why502_gateway::nginx`].
//!
//! What is declared is what the files said when nginx last took them: at its start, at a reload, or when this program
//! first saw it. A file that was changed since and not loaded changes nothing, for nginx does not know it either.

pub mod instance;
pub mod log_files;
pub mod running;
