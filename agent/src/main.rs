//! Placeholder: not written yet.

fn main() {}
