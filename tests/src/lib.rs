//! Real hosts, the fault bench, and the properties of this repository.

pub mod baseline;
pub mod client;
pub mod judge;
pub mod lab;
pub mod report;
pub mod scenario;
pub mod view;
