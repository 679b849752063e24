//! JSON with the line of every value (RFC 8259).

use std::sync::Arc;

use super::{DEPTH_MAX, Error, Node, Value};

/// Reads a text; what stands before the first error, and that.
pub(crate) fn parse(text: &str) -> (Node, Vec<Error>) {
    let mut parser = Parser { text, at: 0, line: 1, counted: 0 };
    let mut root = Node::null();
    let mut error = parser.value(&mut root, 0).err();
    if error.is_none() && parser.skip().is_some() {
        error = Some("text behind the end");
    }
    let line = parser.line_here();
    (root, error.map(|error| (line, error.to_owned())).into_iter().collect())
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    line: u32,
    /// Up to where lines were counted.
    counted: usize,
}

type Result<T> = std::result::Result<T, &'static str>;

impl<'a> Parser<'a> {
    fn line_here(&mut self) -> u32 {
        let new = self.text.as_bytes()[self.counted..self.at].iter().filter(|byte| **byte == b'\n');
        self.line = self.line.saturating_add(u32::try_from(new.count()).unwrap_or(u32::MAX));
        self.counted = self.at;
        self.line
    }

    fn skip(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        let blank = rest.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
        self.at += blank;
        rest.get(blank).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let there = self.skip() == Some(byte);
        self.at += usize::from(there);
        there
    }

    /// Reads into `node`, so that what is read before an error is kept.
    fn value(&mut self, node: &mut Node, depth: usize) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err("values inside values have no end");
        }
        let first = self.skip().ok_or("the text ends where a value must be")?;
        node.line = self.line_here();
        match first {
            b'{' => {
                self.at += 1;
                node.value = Value::Map(Vec::new());
                self.members(node, depth)
            }
            b'[' => {
                self.at += 1;
                node.value = Value::List(Vec::new());
                self.elements(node, depth)
            }
            b'"' => {
                node.value = Value::Scalar(self.string()?.into());
                Ok(())
            }
            _ => {
                let rest = &self.text[self.at..];
                let word = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
                let end = rest.find(|c: char| !word(c)).unwrap_or(rest.len());
                self.at += end;
                match &rest[..end] {
                    "" => return Err("no value"),
                    "null" => node.value = Value::Null,
                    text => node.value = Value::Scalar(text.into()),
                }
                Ok(())
            }
        }
    }

    fn members(&mut self, node: &mut Node, depth: usize) -> Result<()> {
        let Value::Map(entries) = &mut node.value else { return Ok(()) };
        if self.take(b'}') {
            return Ok(());
        }
        loop {
            if self.skip() != Some(b'"') {
                return Err("a name is missing");
            }
            let name: Arc<str> = self.string()?.into();
            if !self.take(b':') {
                return Err("\":\" is missing");
            }
            let mut value = Node::null();
            let read = self.value(&mut value, depth + 1);
            entries.push((name, value));
            read?;
            if !self.take(b',') {
                return if self.take(b'}') { Ok(()) } else { Err("\",\" or \"}\" is missing") };
            }
        }
    }

    fn elements(&mut self, node: &mut Node, depth: usize) -> Result<()> {
        let Value::List(items) = &mut node.value else { return Ok(()) };
        if self.take(b']') {
            return Ok(());
        }
        loop {
            let mut value = Node::null();
            let read = self.value(&mut value, depth + 1);
            items.push(value);
            read?;
            if !self.take(b',') {
                return if self.take(b']') { Ok(()) } else { Err("\",\" or \"]\" is missing") };
            }
        }
    }

    fn string(&mut self) -> Result<String> {
        self.at += 1;
        let mut out = String::new();
        loop {
            let rest = &self.text[self.at..];
            let stop = rest.find(['"', '\\']).ok_or("a quote is not closed")?;
            out.push_str(&rest[..stop]);
            self.at += stop + 1;
            if rest.as_bytes()[stop] == b'"' {
                return Ok(out);
            }
            let escape = self.text[self.at..].chars().next().ok_or("a quote is not closed")?;
            self.at += escape.len_utf8();
            out.push(match escape {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'u' => self.unicode(),
                other => other,
            });
        }
    }

    fn unicode(&mut self) -> char {
        let first = self.hex().unwrap_or(0xfffd);
        let low = self.text[self.at..].starts_with("\\u");
        if (0xd800..0xdc00).contains(&first) && low {
            self.at += 2;
            let second = self.hex().unwrap_or(0);
            let pair = 0x10000 + ((first - 0xd800) << 10) + (second.wrapping_sub(0xdc00) & 0x3ff);
            return char::from_u32(pair).unwrap_or(char::REPLACEMENT_CHARACTER);
        }
        char::from_u32(first).unwrap_or(char::REPLACEMENT_CHARACTER)
    }

    fn hex(&mut self) -> Option<u32> {
        let digits: &'a str = self.text.get(self.at..self.at + 4)?;
        let value = u32::from_str_radix(digits, 16).ok()?;
        self.at += 4;
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_stands_before_an_error_is_kept() {
        let (root, errors) = parse("{\"a\": [1, {\"b\": 2}],\n\"c\": ?}");
        assert_eq!(root.list("a")[1].text("b"), "2");
        assert_eq!(errors, [(2, "no value".to_owned())]);
    }

    #[test]
    fn escapes() {
        let (root, errors) = parse(r#"{"a":"\ud83d\ude00\/\"\u00e9","b":-1.5e3,"c":null}"#);
        assert_eq!((root.text("a"), root.text("b"), errors.len()), ("😀/\"é", "-1.5e3", 0));
        assert_eq!(root.get("c"), None);
    }

    #[test]
    fn no_depth_overflows_the_stack() {
        let (_, errors) = parse(&"[".repeat(1_000_000));
        assert_eq!(errors.len(), 1);
    }
}
