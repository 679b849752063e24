//! Ingest, store, incidents, views: the engine behind `why502`.

pub mod chain;
pub mod cli;
pub mod clock;
pub mod config;
pub mod http;
pub mod incident;
pub mod ingest;
pub mod metrics;
mod rules;
pub mod serve;
pub mod store;
pub mod text;
pub mod tls;
pub mod view;
