//! JSON of the view messages, with the field names of the `.proto` files.

use prost_reflect::prost::{Message, Name};
use prost_reflect::{DeserializeOptions, DynamicMessage, SerializeOptions};

use crate::descriptor::DESCRIPTORS;

/// Why a message could not be turned into JSON or back.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// The message is not one of `why502.v1`.
    #[error("{name} is not a message of why502.v1")]
    Unknown {
        /// Full name of the message.
        name: String,
    },
    /// The bytes or the JSON do not fit the message.
    #[error("not a {name}")]
    Malformed {
        /// Full name of the message.
        name: String,
        /// What did not fit.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// JSON with every field present, 64-bit numbers as numbers.
///
/// # Errors
/// If `M` is not a message of this package.
pub fn to_json<M: Message + Name>(message: &M) -> Result<serde_json::Value, JsonError> {
    let dynamic = decode(M::full_name(), &message.encode_to_vec())?;
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .skip_default_fields(false)
        .stringify_64_bit_integers(false);
    dynamic
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|source| JsonError::Malformed { name: M::full_name(), source: source.into() })
}

/// The inverse of [`to_json`]; fields that this version does not know are ignored.
///
/// # Errors
/// If a known field has another type than it should.
pub fn from_json<M: Message + Name + Default>(json: &serde_json::Value) -> Result<M, JsonError> {
    let name = M::full_name();
    let malformed = |source: Box<dyn std::error::Error + Send + Sync>| JsonError::Malformed {
        name: M::full_name(),
        source,
    };
    let descriptor = DESCRIPTORS
        .pool
        .get_message_by_name(&name)
        .ok_or_else(|| JsonError::Unknown { name: name.clone() })?;
    let options = DeserializeOptions::new().deny_unknown_fields(false);
    let dynamic = DynamicMessage::deserialize_with_options(descriptor, json, &options)
        .map_err(|source| malformed(source.into()))?;
    M::decode(dynamic.encode_to_vec().as_slice()).map_err(|source| malformed(source.into()))
}

fn decode(name: String, bytes: &[u8]) -> Result<DynamicMessage, JsonError> {
    let descriptor = DESCRIPTORS
        .pool
        .get_message_by_name(&name)
        .ok_or_else(|| JsonError::Unknown { name: name.clone() })?;
    DynamicMessage::decode(descriptor, bytes)
        .map_err(|source| JsonError::Malformed { name, source: source.into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    #[test]
    fn an_explanation_survives_json() {
        let explanation = v1::Explanation {
            verdict: "explained".into(),
            symptom: Some(v1::Symptom { status: 502, count: 1 << 40, ..v1::Symptom::default() }),
            chain: vec![v1::Link { facts: vec!["a/b/1".into()], ..v1::Link::default() }],
            ..v1::Explanation::default()
        };
        let json = to_json(&explanation).unwrap();
        assert_eq!(json["symptom"]["count"], 1u64 << 40);
        assert_eq!(json["root_cause"], "", "absent fields are there too");
        assert_eq!(from_json::<v1::Explanation>(&json).unwrap(), explanation);
    }
}
