//! Text of one file to lines and words, as `ap_cfg_getline` and `ap_getword_conf` of httpd 2.4 cut
//! them.
//!
//! A line ends at its end, unless a backslash stands there; `#` makes a comment only where a line
//! begins; a quote opens
//! a word only where a word begins, and a backslash keeps a quote inside of it.

use std::borrow::Cow;

use crate::place::Place;

/// A directive, or a section with what stands in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name, in lower case: "proxypass".
    pub name: &'static str,
    /// Its words, without quotes.
    pub args: Vec<String>,
    /// Where it stands.
    pub place: Place,
    /// What stands between `<Name>` and `</Name>`; empty for a directive.
    pub inner: Vec<Self>,
}

impl Node {
    /// The word at `index`, or "".
    pub fn arg(&self, index: usize) -> &str {
        self.args.get(index).map_or("", String::as_str)
    }

    /// Its name is this.
    pub fn is(&self, name: &str) -> bool {
        self.name == name
    }
}

/// The logical lines of a text, with the number of their first line.
#[derive(Clone, Debug)]
pub struct Lines<'a> {
    rest: &'a [u8],
    line: u32,
}

impl<'a> Lines<'a> {
    /// Lines of a file.
    pub fn new(text: &'a [u8]) -> Self {
        Self { rest: text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text), line: 0 }
    }

    fn physical(&mut self) -> Option<&'a [u8]> {
        if self.rest.is_empty() {
            return None;
        }
        let end = self.rest.iter().position(|byte| *byte == b'\n');
        let (line, rest) = end.map_or((self.rest, &[][..]), |at| {
            let (line, rest) = self.rest.split_at(at);
            (line, &rest[1..])
        });
        self.rest = rest;
        self.line = self.line.saturating_add(1);
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = (u32, Cow<'a, str>);

    fn next(&mut self) -> Option<Self::Item> {
        let line = self.physical()?;
        let number = self.line;
        let Some(begin) = line.strip_suffix(b"\\") else {
            return Some((number, String::from_utf8_lossy(line)));
        };
        let mut joined = begin.to_vec();
        while let Some(line) = self.physical() {
            match line.strip_suffix(b"\\") {
                Some(more) => joined.extend_from_slice(more),
                None => {
                    joined.extend_from_slice(line);
                    break;
                }
            }
        }
        Some((number, Cow::Owned(String::from_utf8_lossy(&joined).into_owned())))
    }
}

/// What a line is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// Blank, or a comment.
    Nothing,
    /// `<Name words>`: name, and the words not yet cut.
    Open(&'a str, &'a str),
    /// `</Name>`
    Close(&'a str),
    /// `Name words`
    Directive(&'a str, &'a str),
}

/// Tells what a line is.
pub fn line(text: &str) -> Line<'_> {
    let text = text.trim();
    if text.is_empty() || text.starts_with('#') {
        return Line::Nothing;
    }
    if let Some(name) = text.strip_prefix("</") {
        return Line::Close(name.trim_end_matches('>').trim());
    }
    let section = text.strip_prefix('<');
    let body = section.map_or(text, |body| body.strip_suffix('>').unwrap_or(body));
    let end = body.find(|c: char| c.is_ascii_whitespace()).unwrap_or(body.len());
    let (name, words) = (&body[..end], body[end..].trim());
    if section.is_some() { Line::Open(name, words) } else { Line::Directive(name, words) }
}

/// Cuts words.
pub fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let (word, after) = match first {
            '"' | '\'' => quoted(&rest[1..], first),
            _ => {
                let end = rest.find(|c: char| c.is_ascii_whitespace()).unwrap_or(rest.len());
                (rest[..end].to_owned(), &rest[end..])
            }
        };
        words.push(word);
        rest = after.trim_start();
    }
    words.shrink_to_fit();
    words
}

/// The word up to `quote`, and what follows it.
fn quoted(text: &str, quote: char) -> (String, &str) {
    let mut word = String::new();
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let escaped =
            chars.peek().map(|next| next.1).filter(|next| *next == quote || *next == '\\');
        match (c, escaped) {
            ('\\', Some(next)) => {
                word.push(next);
                chars.next();
            }
            _ if c == quote => return (word, &text[at + 1..]),
            _ => word.push(c),
        }
    }
    (word, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_go_on_behind_a_backslash_and_keep_their_number() {
        let lines: Vec<_> = Lines::new(b"a\r\nb \\\n  c \\\r\nd\n# e").collect();
        let expected = [(1, "a"), (2, "b   c d"), (5, "# e")];
        assert_eq!(lines, expected.map(|(number, text)| (number, Cow::Borrowed(text))));
    }

    #[test]
    fn kinds_of_lines() {
        assert_eq!(line("  # <x>"), Line::Nothing);
        assert_eq!(line("<VirtualHost *:80>"), Line::Open("VirtualHost", "*:80"));
        assert_eq!(line("</VirtualHost >"), Line::Close("VirtualHost"));
        assert_eq!(line("\tListen\t80 "), Line::Directive("Listen", "80"));
        assert_eq!(line("<If \"%{A} > 1\">"), Line::Open("If", "\"%{A} > 1\""));
    }

    #[test]
    fn words_and_quotes() {
        assert_eq!(words(r#"/a "b \"c\" d" 'e f'  g#h"#), ["/a", "b \"c\" d", "e f", "g#h"]);
        assert_eq!(words(r#"^/(.*)\.php$ "C:\\x\y"#), [r"^/(.*)\.php$", r"C:\x\y"]);
        assert_eq!(words(""), [""; 0]);
    }
}
