//! Real hosts, the fault bench, and the properties of this repository.

pub mod baseline;
mod certificates;
pub mod client;
pub mod install;
pub mod judge;
pub mod lab;
pub mod packages;
pub mod report;
pub mod run;
pub mod scenario;
pub mod view;

/// Ids of all root causes that can be named.
pub fn catalogue() -> Vec<&'static str> {
    why502_explain::catalog().map(|rule| rule.id).collect()
}
