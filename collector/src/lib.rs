//! Ingest, store, incidents, views: the engine behind `why502`.

pub mod http;
pub mod metrics;
mod rules;
pub mod text;
pub mod view;
