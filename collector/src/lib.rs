//! Ingest, store, incidents, views: the engine behind `why502`.

pub mod metrics;
pub mod view;
