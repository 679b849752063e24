//! TOML with the line of every value.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Error, Node, Value};

/// Reads a text; all that can be understood, and what not.
pub(crate) fn parse(text: &str) -> (Node, Vec<Error>) {
    let mut lines = vec![0];
    lines.extend(text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1));
    let line = |at: usize| {
        let before = lines.partition_point(|begin| *begin <= at);
        u32::try_from(before).unwrap_or(u32::MAX)
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    // Without what is quoted: a file may hold secrets, and a message its lines.
    let message = |error: &toml::de::Error| {
        let text = error
            .message()
            .split(['`', '"', '\''])
            .next()
            .unwrap_or("")
            .trim_matches([' ', ',', ':'])
            .to_owned();
        (error.span().map_or(1, |span| line(span.start)), text)
    };
    let errors = errors.iter().map(message).collect();
    let mut root = map(table.get_ref(), &line);
    root.line = 1;
    (root, errors)
}

fn map(table: &DeTable<'_>, line: &impl Fn(usize) -> u32) -> Node {
    let mut entries: Vec<_> = table
        .iter()
        .map(|(key, value)| (key.span().start, (key.get_ref().as_ref().into(), node(value, line))))
        .collect();
    entries.sort_by_key(|(at, _)| *at);
    let first = entries.first().map_or(1, |(at, _)| line(*at));
    Node { value: Value::Map(entries.into_iter().map(|(_, entry)| entry).collect()), line: first }
}

fn node(value: &Spanned<DeValue<'_>>, line: &impl Fn(usize) -> u32) -> Node {
    let here = line(value.span().start);
    let scalar = |text: &str| Node { value: Value::Scalar(text.into()), line: here };
    match value.get_ref() {
        DeValue::String(text) => scalar(text),
        DeValue::Integer(number) => scalar(number.as_str()),
        DeValue::Float(number) => scalar(number.as_str()),
        DeValue::Boolean(truth) => scalar(if *truth { "true" } else { "false" }),
        DeValue::Datetime(time) => scalar(&time.to_string()),
        DeValue::Array(items) => Node {
            value: Value::List(items.iter().map(|item| node(item, line)).collect()),
            line: here,
        },
        DeValue::Table(table) => map(table, line),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_that_is_wrong_costs_itself() {
        let (root, errors) = parse("[a]\nb = 1\nc = = \"secret\"\n[[a.d]]\nurl = \"http://x\"\n");
        assert_eq!((root.text("a.b"), root.list("a.d")[0].text("url")), ("1", "http://x"));
        assert!(errors.iter().all(|(line, text)| *line == 3 && !text.contains("secret")));
        assert!(!errors.is_empty());
    }
}
