//! Real hosts, the fault bench, and the properties of this repository.

pub mod lab;
