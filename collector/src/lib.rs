//! Ingest, store, incidents, views.
