//! Text of a Caddyfile to a tree of directives with their lines.
//!
//! Page: <https://caddyserver.com/docs/caddyfile/concepts>. A directive ends with its line; a
//! block opens with a `{` that
//! ends the line; `#` makes a comment where a word begins; words may stand in quotes, backticks or
//! a heredoc.

use std::sync::Arc;

use crate::place::{Place, Problem};

/// Blocks inside of blocks.
const DEPTH_MAX: usize = 32;

/// A directive with its block, if it has one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// Its words, the name first; none for the block of the global options.
    pub words: Vec<String>,
    /// Line, from 1.
    pub line: u32,
    /// File of the line.
    pub file: Arc<str>,
    /// What stands in its braces.
    pub block: Vec<Self>,
    /// It has braces.
    pub braces: bool,
}

impl Node {
    /// Its first word, or "".
    pub fn name(&self) -> &str {
        self.word(0)
    }

    /// The word at `index`, or "".
    pub fn word(&self, index: usize) -> &str {
        self.words.get(index).map_or("", String::as_str)
    }

    /// Where it stands.
    pub fn place(&self) -> Place {
        Place { file: self.file.clone(), line: self.line }
    }
}

enum Token {
    Word(String),
    Open,
    Close,
    End,
}

/// Reads one file.
pub fn parse(text: &str, file: &Arc<str>) -> (Vec<Node>, Vec<Problem>) {
    let mut parser = Parser { rest: text, line: 1, file, problems: Vec::new() };
    let mut nodes = Vec::new();
    while !parser.block(&mut nodes, 0) {
        parser.problem(parser.line, "closes a block that is not open");
    }
    (nodes, parser.problems)
}

struct Parser<'a> {
    rest: &'a str,
    line: u32,
    file: &'a Arc<str>,
    problems: Vec<Problem>,
}

impl Parser<'_> {
    /// Reads up to the `}` of the block; `true`: the file ended instead.
    fn block(&mut self, nodes: &mut Vec<Node>, depth: usize) -> bool {
        let mut node = self.node();
        loop {
            let line = self.line;
            let Some(token) = self.token() else {
                push(nodes, node);
                return true;
            };
            match token {
                Token::Word(word) => {
                    if node.words.is_empty() {
                        node.line = line;
                    }
                    node.words.push(word);
                }
                // Addresses of a site go on behind a comma.
                Token::End if node.words.last().is_some_and(|word| word.ends_with(',')) => {}
                Token::End => {
                    push(nodes, std::mem::take(&mut node));
                    node = self.node();
                }
                Token::Close => {
                    push(nodes, node);
                    return false;
                }
                Token::Open => {
                    if node.words.is_empty() {
                        node.line = line;
                    }
                    node.braces = true;
                    let begin = node.line;
                    if depth >= DEPTH_MAX {
                        self.problem(begin, "blocks are nested too deep");
                        self.rest = "";
                        return true;
                    }
                    if self.block(&mut node.block, depth + 1) {
                        self.problem(begin, "block is not closed");
                    }
                    nodes.push(std::mem::take(&mut node));
                    node = self.node();
                }
            }
        }
    }

    fn node(&self) -> Node {
        Node { line: self.line, file: self.file.clone(), ..Node::default() }
    }

    fn token(&mut self) -> Option<Token> {
        loop {
            let first = self.rest.chars().next()?;
            match first {
                '\n' => {
                    self.take(1);
                    return Some(Token::End);
                }
                '\\' if self.rest[1..].starts_with(['\n', '\r']) => {
                    let length = self.rest.find('\n').map_or(self.rest.len(), |at| at + 1);
                    self.take(length);
                }
                _ if first.is_whitespace() => self.take(first.len_utf8()),
                '#' => {
                    let length = self.rest.find('\n').unwrap_or(self.rest.len());
                    self.take(length);
                }
                _ => break,
            }
        }
        if let Some(quote) = self.rest.chars().next().filter(|c| matches!(c, '"' | '`')) {
            return Some(self.quoted(quote));
        }
        let end = self.rest.find(char::is_whitespace).unwrap_or(self.rest.len());
        let word = self.rest[..end].to_owned();
        if let Some(marker) = word.strip_prefix("<<").filter(|marker| !marker.is_empty()) {
            return Some(self.heredoc(marker, end));
        }
        self.take(end);
        Some(match word.as_str() {
            "{" => Token::Open,
            "}" => Token::Close,
            _ => Token::Word(word),
        })
    }

    fn quoted(&mut self, quote: char) -> Token {
        let mut word = String::new();
        let mut chars = self.rest.char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            if c == '\\' && quote == '"' && chars.peek().is_some_and(|next| next.1 == '"') {
                word.push('"');
                chars.next();
            } else if c == quote {
                self.take(at + 1);
                return Token::Word(word);
            } else {
                word.push(c);
            }
        }
        // Most likely forgotten on this line: what follows it is still readable.
        self.problem(self.line, "quote is not closed");
        let length = self.rest.find('\n').unwrap_or(self.rest.len());
        self.take(length);
        Token::Word(String::new())
    }

    fn heredoc(&mut self, marker: &str, begin: usize) -> Token {
        let line = self.line;
        let body = &self.rest[begin..];
        let mut at = begin;
        for text in body.split_inclusive('\n') {
            let blank = text.len() - text.trim_start().len();
            let after = text[blank..].strip_prefix(marker);
            // Words may follow the marker.
            if after.is_some_and(|after| after.is_empty() || after.starts_with(char::is_whitespace))
            {
                let whole = self.rest[begin..at].trim().to_owned();
                self.take(at + blank + marker.len());
                return Token::Word(whole);
            }
            at += text.len();
        }
        self.problem(line, "heredoc is not closed");
        self.take(begin);
        Token::Word(String::new())
    }

    fn take(&mut self, length: usize) {
        let (taken, rest) = self.rest.split_at(length);
        let lines = taken.bytes().filter(|byte| *byte == b'\n').count();
        self.line = self.line.saturating_add(u32::try_from(lines).unwrap_or(u32::MAX));
        self.rest = rest;
    }

    fn problem(&mut self, line: u32, text: &str) {
        let place = Place { file: self.file.clone(), line };
        self.problems.push(Problem { place, text: text.to_owned() });
    }
}

fn push(nodes: &mut Vec<Node>, node: Node) {
    if !node.words.is_empty() {
        nodes.push(node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tree() {
        let text = "{\n\tadmin off\n}\na.example,\nb.example {\n  respond \"a \\\"b\" 200 # c\n  header {\n    X `y z`\n  }\n}\n\
                    c { respond <<END\n  x\n  } \n  END 503 }\n";
        let (nodes, problems) = parse(text, &"f".into());
        assert_eq!(problems, []);
        assert_eq!(nodes[0].words, [""; 0]);
        assert_eq!(nodes[0].block[0].words, ["admin", "off"]);
        assert_eq!(
            (nodes[1].words.as_slice(), nodes[1].line),
            (&["a.example,".to_owned(), "b.example".to_owned()][..], 4)
        );
        assert_eq!(nodes[1].block[0].words, ["respond", "a \"b", "200"]);
        assert_eq!(nodes[1].block[1].block[0].words, ["X", "y z"]);
        assert_eq!(nodes[2].block[0].name(), "respond");
    }

    #[test]
    fn broken() {
        let (nodes, problems) = parse("a {\n respond \"x\n}\nb {\n", &"f".into());
        let told: Vec<_> = problems.iter().map(|p| (p.place.line, p.text.as_str())).collect();
        assert_eq!(told, [(2, "quote is not closed"), (4, "block is not closed")]);
        assert_eq!(nodes.len(), 2);
        assert_eq!(parse("}\n}", &"f".into()).1.len(), 2);
    }
}
