//! The one text form of a fact: `T-0.410 app-1 process_exited pid=4121 unit=api.service signal=9`.
//!
//! Generic over the descriptor, in both directions. Fields stand in the order of their numbers; a repeated
//! field stands once per value; a field that is absent is not written. Enum values are written in lower
//! case without the name of the enum. A value with white space, a quote, a backslash or a control character in
//! it, and the empty string, stand in double quotes with Rust's escapes.

use std::fmt;
use std::str::FromStr;

use prost_reflect::{DynamicMessage, FieldDescriptor, Kind as FieldKind, ReflectMessage, Value};

use crate::Kind;
use crate::descriptor::{DESCRIPTORS, from_dynamic, to_dynamic};

/// Why a text is not a fact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// The line does not begin with `T`, a sign and seconds.
    #[error("{text:?} is not a time like T-0.410")]
    Time {
        /// What stood there.
        text: String,
    },
    /// A part of the line is missing.
    #[error("the line ends before its {what}")]
    Short {
        /// What is missing.
        what: &'static str,
    },
    /// No such kind of fact.
    #[error("there is no fact {name:?}")]
    Kind {
        /// What stood there.
        name: String,
    },
    /// The kind has no such field.
    #[error("{kind} has no field {field:?}")]
    Field {
        /// Kind of the fact.
        kind: String,
        /// What stood there.
        field: String,
    },
    /// The value does not fit the field.
    #[error("{value:?} is not a value of {field}")]
    Value {
        /// Name of the field.
        field: String,
        /// What stood there.
        value: String,
    },
    /// Not `host/boot/seq`.
    #[error("{text:?} is not host/boot/seq")]
    FactId {
        /// What stood there.
        text: String,
    },
}

/// A fact on a line: when, relative to a moment that the context names, on which host, and what.
#[derive(Clone, Debug, PartialEq)]
pub struct FactLine {
    /// Microseconds after `T`; negative before it.
    pub offset_us: i64,
    /// Host that observed it; without white space.
    pub host: String,
    /// What was observed.
    pub kind: Kind,
}

impl fmt::Display for FactLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.offset_us < 0 { '-' } else { '+' };
        let (seconds, micros) =
            (self.offset_us.unsigned_abs() / 1_000_000, self.offset_us.unsigned_abs() % 1_000_000);
        if micros % 1000 == 0 {
            write!(f, "T{sign}{seconds}.{:03}", micros / 1000)?;
        } else {
            write!(f, "T{sign}{seconds}.{micros:06}")?;
        }
        write!(f, " {} {}", self.host, kind_name(&self.kind))?;
        let fields = fields_text(&self.kind);
        if fields.is_empty() { Ok(()) } else { write!(f, " {fields}") }
    }
}

impl FromStr for FactLine {
    type Err = TextError;

    fn from_str(line: &str) -> Result<Self, TextError> {
        let mut words = line.trim().splitn(4, ' ');
        let mut word =
            |what| words.next().filter(|w| !w.is_empty()).ok_or(TextError::Short { what });
        let offset_us = parse_offset(word("time")?)?;
        let host = word("host")?.to_owned();
        let name = word("kind")?;
        let kind = parse_kind(name, words.next().unwrap_or_default())?;
        Ok(Self { offset_us, host, kind })
    }
}

/// Name of the kind: `process_exited`.
pub fn kind_name(kind: &Kind) -> String {
    to_dynamic(kind).map(|(field, _)| field.name().to_owned()).unwrap_or_default()
}

/// The fields that are there, as `name=value`, separated by blanks.
pub fn fields_text(kind: &Kind) -> String {
    let Some((_, message)) = to_dynamic(kind) else { return String::new() };
    let mut text = String::new();
    for field in message.descriptor().fields().filter(|field| message.has_field(field)) {
        let value = message.get_field(&field);
        let values = value.as_list().unwrap_or_else(|| std::slice::from_ref(&value));
        for value in values {
            if !text.is_empty() {
                text.push(' ');
            }
            text.push_str(field.name());
            text.push('=');
            text.push_str(&value_text(&field, value));
        }
    }
    text
}

/// Name of an enum value without the name of its enum, in lower case: `ECONNREFUSED` of `FAULT_ECONNREFUSED` is
/// `econnrefused`. Takes what prost calls `as_str_name` and the enum's own name in upper case.
pub fn value_name(as_str_name: &str, enum_name: &str) -> String {
    as_str_name
        .strip_prefix(enum_name)
        .and_then(|rest| rest.strip_prefix('_'))
        .unwrap_or(as_str_name)
        .to_ascii_lowercase()
}

fn parse_offset(text: &str) -> Result<i64, TextError> {
    let bad = || TextError::Time { text: text.to_owned() };
    let rest = text.strip_prefix('T').ok_or_else(bad)?;
    let (negative, rest) = match rest.as_bytes().first() {
        Some(b'-') => (true, &rest[1..]),
        Some(b'+') => (false, &rest[1..]),
        _ => return Err(bad()),
    };
    let (seconds, micros) = rest.split_once('.').ok_or_else(bad)?;
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !digits(seconds) || !digits(micros) || micros.len() > 6 {
        return Err(bad());
    }
    let seconds: i64 = seconds.parse().map_err(|_| bad())?;
    let micros: i64 = format!("{micros:0<6}").parse().map_err(|_| bad())?;
    let offset = seconds.checked_mul(1_000_000).and_then(|s| s.checked_add(micros));
    offset.map(|us| if negative { -us } else { us }).ok_or_else(bad)
}

fn parse_kind(name: &str, fields: &str) -> Result<Kind, TextError> {
    let unknown = || TextError::Kind { name: name.to_owned() };
    let slot = DESCRIPTORS.kind.fields().find(|f| f.name() == name).ok_or_else(unknown)?;
    let FieldKind::Message(descriptor) = slot.kind() else { return Err(unknown()) };
    let mut message = DynamicMessage::new(descriptor.clone());
    let mut rest = fields.trim_start();
    while !rest.is_empty() {
        let (field_name, after) = rest
            .split_once('=')
            .ok_or_else(|| TextError::Field { kind: name.to_owned(), field: rest.to_owned() })?;
        let field = descriptor.get_field_by_name(field_name).ok_or_else(|| TextError::Field {
            kind: name.to_owned(),
            field: field_name.to_owned(),
        })?;
        let (raw, after) = take_value(after).ok_or_else(|| TextError::Value {
            field: field_name.to_owned(),
            value: after.into(),
        })?;
        let value = parse_value(&field, &raw)
            .ok_or(TextError::Value { field: field_name.to_owned(), value: raw })?;
        if field.is_list() {
            if let Some(list) = message.get_field_mut(&field).as_list_mut() {
                list.push(value);
            }
        } else {
            message.set_field(&field, value);
        }
        rest = after.trim_start();
    }
    from_dynamic(&slot, message).ok_or_else(unknown)
}

/// One value, bare or quoted, and what follows it.
fn take_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(' ').unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                'r' => value.push('\r'),
                't' => value.push('\t'),
                '0' => value.push('\0'),
                'u' => {
                    let rest = chars.as_str().strip_prefix('{')?;
                    let end = rest.find('}')?;
                    value.push(char::from_u32(u32::from_str_radix(&rest[..end], 16).ok()?)?);
                    // The braces and the digits between them, all ASCII.
                    chars.nth(end + 1)?;
                }
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

pub(crate) fn value_text(field: &FieldDescriptor, value: &Value) -> String {
    match value {
        Value::String(text) => {
            let bare = !text.is_empty()
                && !text.chars().any(|c| c.is_whitespace() || c.is_control() || "\"\\".contains(c));
            if bare { text.clone() } else { format!("\"{}\"", text.escape_debug()) }
        }
        Value::EnumNumber(number) => match field.kind() {
            FieldKind::Enum(descriptor) => descriptor.get_value(*number).map_or_else(
                || number.to_string(),
                |value| enum_value_text(descriptor.name(), value.name()),
            ),
            _ => number.to_string(),
        },
        Value::U32(number) if is_octal(field) => format!("0{number:o}"),
        Value::Bool(value) => value.to_string(),
        Value::U32(value) => value.to_string(),
        Value::U64(value) => value.to_string(),
        Value::I32(value) => value.to_string(),
        Value::I64(value) => value.to_string(),
        // No fact has another type; a test of the descriptor says so.
        _ => String::new(),
    }
}

fn parse_value(field: &FieldDescriptor, text: &str) -> Option<Value> {
    Some(match field.kind() {
        FieldKind::String => Value::String(text.to_owned()),
        FieldKind::Bool => Value::Bool(text.parse().ok()?),
        FieldKind::Uint32 if is_octal(field) => Value::U32(u32::from_str_radix(text, 8).ok()?),
        FieldKind::Uint32 => Value::U32(text.parse().ok()?),
        FieldKind::Uint64 => Value::U64(text.parse().ok()?),
        FieldKind::Int32 => Value::I32(text.parse().ok()?),
        FieldKind::Int64 => Value::I64(text.parse().ok()?),
        FieldKind::Enum(descriptor) => {
            let named =
                descriptor.values().find(|v| enum_value_text(descriptor.name(), v.name()) == text);
            Value::EnumNumber(match named {
                Some(value) => value.number(),
                None => text.parse().ok()?,
            })
        }
        _ => return None,
    })
}

fn is_octal(field: &FieldDescriptor) -> bool {
    field.options().get_extension(&DESCRIPTORS.octal).as_bool() == Some(true)
}

fn enum_value_text(enum_name: &str, value_name: &str) -> String {
    let mut prefix = String::new();
    for (at, c) in enum_name.char_indices() {
        if c.is_ascii_uppercase() && at > 0 {
            prefix.push('_');
        }
        prefix.push(c.to_ascii_uppercase());
    }
    crate::value_name(value_name, &prefix)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::v1;

    #[track_caller]
    fn check(line: &str) {
        let fact: FactLine = line.parse().unwrap();
        assert_eq!(fact.to_string(), line);
    }

    #[test]
    fn lines_survive_a_round_trip() {
        check("T-0.410 app-1 process_exited pid=4121 unit=api.service signal=9");
        check("T+0.000 app-1 process_exited pid=1 status=0");
        check(
            "T+12.000001 gw request_failed endpoint=10.0.0.7:80 phase=connect fault=econnrefused",
        );
        check(
            r#"T-1.000 a unit_last_words unit=x lines="bind(): Address in use" lines="" lines="\"q\"""#,
        );
        check(
            "T-1.000 a unix_socket_path address=unix:/run/a.sock state=stale mode=0660 client_uid=0",
        );
        check("T-9.000 app-1 source_blinded source=journal reason=\"no permission\"");
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let error = |line: &str| line.parse::<FactLine>().unwrap_err().to_string();
        assert_eq!(error("0.4 a b"), r#""0.4" is not a time like T-0.410"#);
        assert_eq!(error("T-0.4 a"), "the line ends before its kind");
        assert_eq!(error("T-0.4 a nonsense x=1"), r#"there is no fact "nonsense""#);
        assert_eq!(error("T-0.4 a oom_kill x=1"), r#"oom_kill has no field "x""#);
        assert_eq!(error("T-0.4 a oom_kill pid=x"), r#""x" is not a value of pid"#);
        assert_eq!(error("T-0.4 a oom_kill scope=moon"), r#""moon" is not a value of scope"#);
    }

    #[test]
    fn facts_have_only_types_that_the_text_form_knows() {
        for kind in DESCRIPTORS.kind.fields() {
            let FieldKind::Message(message) = kind.kind() else { panic!("{}", kind.name()) };
            for field in message.fields() {
                let known = matches!(
                    field.kind(),
                    FieldKind::String
                        | FieldKind::Bool
                        | FieldKind::Uint32
                        | FieldKind::Uint64
                        | FieldKind::Int64
                        | FieldKind::Enum(_)
                );
                assert!(known && !field.is_map(), "{}.{}", kind.name(), field.name());
            }
        }
    }

    /// A fact of any kind with any values, made by the descriptor like the text form itself.
    fn any_kind() -> impl Strategy<Value = Kind> {
        let slots: Vec<_> = DESCRIPTORS.kind.fields().collect();
        (proptest::sample::select(slots), any::<u64>(), proptest::collection::vec(".{0,12}", 8))
            .prop_map(|(slot, seed, strings)| {
                let FieldKind::Message(descriptor) = slot.kind() else { unreachable!() };
                let mut message = DynamicMessage::new(descriptor.clone());
                for (at, field) in descriptor.fields().enumerate() {
                    let bits = seed.rotate_left(u32::try_from(at * 7).unwrap());
                    if bits & 1 == 0 {
                        continue;
                    }
                    let value = match field.kind() {
                        FieldKind::String => Value::String(strings[at % 8].clone()),
                        FieldKind::Bool => Value::Bool(bits & 2 == 0),
                        FieldKind::Uint32 => Value::U32((bits >> 32) as u32),
                        FieldKind::Uint64 => Value::U64(bits),
                        FieldKind::Int64 => Value::I64(bits.cast_signed()),
                        FieldKind::Enum(_) => Value::EnumNumber((bits % 12) as i32),
                        other => unreachable!("{other:?}"),
                    };
                    let value = if field.is_list() {
                        Value::List(vec![value.clone(), value])
                    } else {
                        value
                    };
                    message.set_field(&field, value);
                }
                from_dynamic(&slot, message).unwrap()
            })
    }

    proptest! {
        #[test]
        fn every_fact_survives_a_round_trip(kind in any_kind(), offset_us in -1i64 << 50..1 << 50) {
            let fact = FactLine { offset_us, host: "app-1".into(), kind };
            let text = fact.to_string();
            prop_assert!(!text.contains('\n'), "{text}");
            prop_assert_eq!(text.parse::<FactLine>().unwrap(), fact, "{}", text);
        }

        #[test]
        fn no_line_panics(line in "(T[-+][0-9]\\.[0-9] a (oom_kill|unit_state) )?.{0,60}") {
            let _ = line.parse::<FactLine>();
        }
    }

    #[test]
    fn defaults_are_written_only_where_they_say_something() {
        let exited = v1::ProcessExited { status: Some(0), ..v1::ProcessExited::default() };
        assert_eq!(fields_text(&Kind::ProcessExited(exited)), "status=0");
    }
}
