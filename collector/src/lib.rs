//! Ingest, store, incidents, views: the engine behind `why502`.

pub mod chain;
pub mod cli;
pub mod clock;
pub mod config;
pub mod decode;
pub mod http;
pub mod incident;
pub mod ingest;
pub mod metrics;
pub mod push;
mod rules;
pub mod serve;
pub mod store;
pub mod text;
pub mod tls;
pub mod view;
