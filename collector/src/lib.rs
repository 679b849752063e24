//! Ingest, store, incidents, views: the engine behind `why502`.

pub mod clock;
pub mod incident;
pub mod ingest;
pub mod metrics;
pub mod store;
pub mod text;
pub mod tls;
pub mod view;
