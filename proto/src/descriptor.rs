//! The descriptors of all messages, and the way from a typed fact to a dynamic one and back.

use std::sync::LazyLock;

use prost_reflect::prost::Message;
use prost_reflect::{
    DescriptorPool, DynamicMessage, ExtensionDescriptor, FieldDescriptor, MessageDescriptor,
    OneofDescriptor,
};

use crate::{Kind, v1};

/// Descriptors and options, looked up once.
pub(crate) struct Descriptors {
    pub(crate) pool: DescriptorPool,
    pub(crate) fact: MessageDescriptor,
    pub(crate) kind: OneofDescriptor,
    pub(crate) about: ExtensionDescriptor,
    pub(crate) ends: ExtensionDescriptor,
    pub(crate) key: ExtensionDescriptor,
    pub(crate) octal: ExtensionDescriptor,
}

/// The bytes are compiled in and a test decodes them, so a failure here cannot reach a user.
#[expect(clippy::expect_used, reason = "constant input, covered by every test of this crate")]
pub(crate) static DESCRIPTORS: LazyLock<Descriptors> = LazyLock::new(|| {
    let pool = DescriptorPool::decode(include_bytes!("gen/why502.v1.bin").as_slice())
        .expect("the committed descriptor set decodes");
    let fact = pool.get_message_by_name("why502.v1.Fact").expect("Fact is declared");
    let kind = fact.oneofs().find(|oneof| oneof.name() == "kind").expect("Fact has a kind");
    let option = |name: &str| pool.get_extension_by_name(name).expect("the option is declared");
    Descriptors {
        fact,
        kind,
        about: option("why502.v1.about"),
        ends: option("why502.v1.ends"),
        key: option("why502.v1.key"),
        octal: option("why502.v1.octal"),
        pool: pool.clone(),
    }
});

/// The field of `Fact.kind` that is set, and the message in it.
pub(crate) fn to_dynamic(kind: &Kind) -> Option<(FieldDescriptor, DynamicMessage)> {
    let fact = v1::Fact { kind: Some(kind.clone()), ..v1::Fact::default() };
    let bytes = fact.encode_to_vec();
    let message = DynamicMessage::decode(DESCRIPTORS.fact.clone(), bytes.as_slice()).ok()?;
    let field = DESCRIPTORS.kind.fields().find(|field| message.has_field(field))?;
    let value = message.get_field(&field).as_message()?.clone();
    Some((field, value))
}

/// The inverse of [`to_dynamic`].
pub(crate) fn from_dynamic(field: &FieldDescriptor, message: DynamicMessage) -> Option<Kind> {
    let mut fact = DynamicMessage::new(DESCRIPTORS.fact.clone());
    fact.try_set_field(field, prost_reflect::Value::Message(message)).ok()?;
    v1::Fact::decode(fact.encode_to_vec().as_slice()).ok()?.kind
}
