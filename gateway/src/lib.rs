//! What gateways declare and log, read from text.
//!
//! Each kind of gateway has a folder that goes from text to a tree with positions, to the effective configuration, to
//! facts of `why502.v1`; a construct that is not understood costs its own block and is told with its place. Beside the
//! folders stands what all kinds share. Nothing here starts a process or opens a socket: the agent finds gateways,
//! follows logs and asks admin interfaces, `why502 decode` has only lines; both read them with the same readers.

pub mod any;
pub mod apache;
pub mod caddy;
pub mod cdn;
pub mod document;
pub mod effective;
pub mod envoy;
pub mod errno;
pub mod files;
pub mod haproxy;
pub mod kind;
pub mod lines;
pub mod nginx;
pub mod place;
pub mod redact;
pub mod traefik;
