//! Configurations that are trees of named values: YAML, JSON and TOML, each with the line of every value.
//!
//! Names are compared without regard to case and `_`: `connectTimeout`, `connect_timeout` and `connecttimeout` are one
//! name to the programs that read such files.

use std::sync::Arc;

use crate::place::{Place, Problem};

pub mod duration;
pub mod json;
pub mod toml;
pub mod yaml;

/// Values inside values. Real files have some twenty; dropping a tree needs the stack.
pub(crate) const DEPTH_MAX: usize = 128;

/// A value and where it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// What it is.
    pub value: Value,
    /// From 1.
    pub line: u32,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing, `null` or `~`.
    Null,
    /// Text, number or truth, as it is written, without quotes.
    Scalar(Box<str>),
    /// Values in their order.
    List(Vec<Node>),
    /// Names and values in their order.
    Map(Vec<(Arc<str>, Node)>),
}

/// A file, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// Path as the gateway would name it, or what else it came from.
    pub file: Arc<str>,
    /// All of it; what stands before the first error where there is one.
    pub root: Node,
    /// What was not understood.
    pub problems: Vec<Problem>,
}

/// How a text is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Syntax {
    /// YAML 1.2, which most of JSON is, too.
    Yaml,
    /// RFC 8259.
    Json,
    /// TOML 1.1.
    Toml,
}

impl Syntax {
    /// By the end of a file's name; YAML where that does not tell.
    pub fn of(file: &str) -> Self {
        match file.rsplit_once('.').map(|(_, end)| end.to_ascii_lowercase()).as_deref() {
            Some("json") => Self::Json,
            Some("toml") => Self::Toml,
            _ => Self::Yaml,
        }
    }
}

impl Document {
    /// Reads `text`, which `file` holds.
    pub fn parse(text: &str, file: &str, syntax: Syntax) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let (root, errors) = match syntax {
            Syntax::Yaml => yaml::parse(text),
            Syntax::Json => json::parse(text),
            Syntax::Toml => toml::parse(text),
        };
        let file: Arc<str> = file.into();
        let problem =
            |(line, text)| Problem { place: Place { file: Arc::clone(&file), line }, text };
        let problems = errors.into_iter().map(problem).collect();
        Self { file: Arc::clone(&file), root, problems }
    }

    /// Where `node` stands.
    pub fn place(&self, node: &Node) -> Place {
        Place { file: Arc::clone(&self.file), line: node.line }
    }
}

/// A line, and what is wrong there. Never quotes the text beyond names.
pub(crate) type Error = (u32, String);

/// One name, however it is written.
pub fn same_name(a: &str, b: &str) -> bool {
    let letters = |text: &'_ str| -> Vec<u8> {
        let bytes = text.bytes().filter(|byte| *byte != b'_' && *byte != b'-');
        bytes.map(|byte| byte.to_ascii_lowercase()).collect()
    };
    a == b || (a.len().abs_diff(b.len()) <= a.len() / 2 && letters(a) == letters(b))
}

impl Node {
    /// Nothing, on the first line.
    pub const fn null() -> Self {
        Self { value: Value::Null, line: 1 }
    }

    /// The value of a name of a map.
    pub fn get(&self, name: &str) -> Option<&Self> {
        let entries = self.entries().iter();
        let found = entries.rev().find(|(key, _)| same_name(key, name)).map(|(_, node)| node);
        found.filter(|node| node.value != Value::Null)
    }

    /// The value at a path of names: `a.b.c`.
    pub fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |node, name| node.get(name))
    }

    /// Text at a path; "" where there is none.
    pub fn text(&self, path: &str) -> &str {
        self.at(path).and_then(Self::scalar).unwrap_or("")
    }

    /// Whether `true` stands at a path.
    pub fn is_true(&self, path: &str) -> bool {
        self.text(path).eq_ignore_ascii_case("true")
    }

    /// Its text, where it is a scalar.
    pub fn scalar(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text) => Some(text),
            _ => None,
        }
    }

    /// Its names and values; none where it is no map.
    pub fn entries(&self) -> &[(Arc<str>, Self)] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// Its values; itself where it is a single one, none where it is nothing.
    pub fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            Value::Null => &[],
            _ => std::slice::from_ref(self),
        }
    }

    /// The values of the list at a path.
    pub fn list(&self, path: &str) -> &[Self] {
        self.at(path).map_or(&[], Self::items)
    }

    /// The names and values of the map at a path.
    pub fn map(&self, path: &str) -> &[(Arc<str>, Self)] {
        self.at(path).map_or(&[], Self::entries)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_name_in_many_hands() {
        assert!(same_name("connectTimeout", "connect_timeout"));
        assert!(same_name("loadbalancer", "loadBalancer"));
        assert!(!same_name("address", "addresses") && !same_name("", "a"));
    }

    #[track_caller]
    fn same(syntax: Syntax, text: &str, expected: &[(&str, &str, u32)]) {
        let document = Document::parse(text, "f", syntax);
        assert_eq!(document.problems, []);
        for (path, value, line) in expected {
            let node = document.root.at(path).expect(path);
            assert_eq!((node.scalar(), node.line), (Some(*value), *line), "{path}");
        }
    }

    #[test]
    fn three_ways_to_write_one_thing() {
        let expected = [("a.b", "1", 2), ("a.c", "x y", 3), ("a.d.e", "true", 4)];
        same(Syntax::Yaml, "a:\n  b: 1\n  c: 'x y'\n  d: {e: true, f: }\n", &expected);
        same(
            Syntax::Json,
            "{\"a\": {\n\t\"b\": 1,\n\"c\": \"x\\u0020y\",\n \"d\": {\"e\": true}}}",
            &expected,
        );
        same(Syntax::Toml, "[a]\nb = 1\nc = \"x y\"\nd = {e = true}\n", &expected);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in ".{0,200}") {
            for syntax in [Syntax::Yaml, Syntax::Json, Syntax::Toml] {
                Document::parse(&text, "f", syntax);
            }
        }

        #[test]
        fn any_structure_is_read(text in "([\\[\\]{}:,\\-\"'|>&*!#\n ]|a|b|&a |\\*a|<<: |\t|= |\\]\\]|\\[\\[a){0,80}") {
            for syntax in [Syntax::Yaml, Syntax::Json, Syntax::Toml] {
                Document::parse(&text, "f", syntax);
            }
        }
    }
}
