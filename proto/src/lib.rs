//! The words of why502: facts, their text form, and the messages between agent, collector and people.
//!
//! A fact kind is declared once, in `fact.proto`. Everything that works on all kinds alike (text form, entity,
//! JSON) is written here against the descriptor and never against a kind.

mod descriptor;
mod entity;
mod json;
mod text;
mod time;

pub use entity::Entity;
pub use json::{JsonError, from_json, to_json};
pub use text::{FactLine, TextError, fields_text, kind_name, value_name};
pub use time::rfc3339;

/// Generated from `proto/why502/v1/*.proto`.
#[expect(missing_docs, clippy::all, reason = "generated; the comments are in the .proto files")]
pub mod v1 {
    include!("gen/why502.v1.rs");
}

/// What a fact says; one variant per kind.
pub type Kind = v1::fact::Kind;

/// Names a fact for good: written `host/boot/seq`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FactId {
    /// Host that observed it.
    pub host: String,
    /// Boot of that host, /proc/sys/kernel/random/boot_id.
    pub boot: String,
    /// Position in the sequence of that boot.
    pub seq: u64,
}

impl std::fmt::Display for FactId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.host, self.boot, self.seq)
    }
}

impl std::str::FromStr for FactId {
    type Err = TextError;

    fn from_str(text: &str) -> Result<Self, TextError> {
        let bad = || TextError::FactId { text: text.to_owned() };
        let (rest, seq) = text.rsplit_once('/').ok_or_else(bad)?;
        let (host, boot) = rest.rsplit_once('/').ok_or_else(bad)?;
        let seq = seq.parse().map_err(|_| bad())?;
        if host.is_empty() || boot.is_empty() {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), boot: boot.to_owned(), seq })
    }
}
