//! What a fact is about, by the options of its descriptor: which facts are states, and which of them
//! replace each other.

use prost_reflect::ReflectMessage;

use crate::Kind;
use crate::descriptor::{DESCRIPTORS, to_dynamic};
use crate::text::value_text;

/// The thing that a fact describes. Of two facts about the same entity of a host the later one holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entity {
    /// Kind of thing and its key fields: `listener 0.0.0.0:8080`.
    pub name: String,
    /// The fact says that the thing is no more.
    pub ends: bool,
}

impl Entity {
    /// `None` for facts that are moments and not states.
    pub fn of(kind: &Kind) -> Option<Self> {
        let (_, message) = to_dynamic(kind)?;
        let descriptor = message.descriptor();
        let options = descriptor.options();
        let about = options.get_extension(&DESCRIPTORS.about);
        let about = about.as_str().filter(|about| !about.is_empty())?;
        let mut name = about.to_owned();
        for field in descriptor.fields() {
            if field.options().get_extension(&DESCRIPTORS.key).as_bool() == Some(true) {
                name.push(' ');
                name.push_str(&value_text(&field, &message.get_field(&field)));
            }
        }
        let ends = options.get_extension(&DESCRIPTORS.ends).as_bool() == Some(true);
        Some(Self { name, ends })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1;

    #[test]
    fn two_kinds_about_one_thing_share_its_name() {
        let opened = v1::ListenerOpened {
            address: "0.0.0.0:80".into(),
            pid: 7,
            ..v1::ListenerOpened::default()
        };
        let closed =
            v1::ListenerClosed { address: "0.0.0.0:80".into(), ..v1::ListenerClosed::default() };
        let opened = Entity::of(&Kind::ListenerOpened(opened)).unwrap();
        let closed = Entity::of(&Kind::ListenerClosed(closed)).unwrap();
        assert_eq!(opened.name, "listener 0.0.0.0:80 0");
        assert_eq!(opened.name, closed.name);
        assert!(!opened.ends && !closed.ends);
    }

    #[test]
    fn a_moment_is_about_nothing() {
        assert_eq!(Entity::of(&Kind::OomKill(v1::OomKill::default())), None);
    }
}
