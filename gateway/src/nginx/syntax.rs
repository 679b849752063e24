//! Text of one configuration file to a tree of directives with their lines.
//!
//! Follows `ngx_conf_read_token`: words end at white space, `;` or `{`; a quote or `#` means something only where a
//! word begins; `${` does not open a block. Never fails: what nginx would refuse is left out and told as a
//! [`Problem`], and reading goes on with the next directive, because the file on disk need not be the one that runs.

use std::sync::Arc;

use crate::place::{Place, Problem};

/// Deepest nesting of blocks that is read. nginx configurations nest some ten levels; the parser recurses.
const DEPTH_MAX: usize = 64;

/// `name args... ;` or `name args... { block }`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// The first word.
    pub name: String,
    /// The other words, without quotes and escapes.
    pub args: Vec<String>,
    /// Where its name stands.
    pub place: Place,
    /// Directives in its block; `None` where it ends with `;`.
    pub block: Option<Vec<Self>>,
}

impl Directive {
    /// The argument at `index`, or "".
    pub fn arg(&self, index: usize) -> &str {
        self.args.get(index).map_or("", String::as_str)
    }
}

/// Reads one file. Bytes that are not UTF-8 are replaced.
pub fn parse(bytes: &[u8], file: &Arc<str>) -> (Vec<Directive>, Vec<Problem>) {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut parser = Parser { bytes, at: 0, line: 1, file, problems: Vec::new() };
    let mut directives = Vec::new();
    while !parser.block(&mut directives, 0) {
        parser.problem(parser.line, "unexpected \"}\"");
    }
    (directives, parser.problems)
}

#[derive(Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Semicolon,
    Open,
    Close,
    /// A word that cannot be read; its directive is lost.
    Broken,
    /// The rest of a line that cannot be read; the next line is another directive.
    BrokenLine,
}

struct Parser<'a> {
    bytes: &'a [u8],
    at: usize,
    line: u32,
    file: &'a Arc<str>,
    problems: Vec<Problem>,
}

impl Parser<'_> {
    /// Reads directives up to the `}` that closes the block; `true` when the file ended instead.
    fn block(&mut self, directives: &mut Vec<Directive>, depth: usize) -> bool {
        let mut words: Vec<String> = Vec::new();
        let (mut begin, mut broken) = (self.line, false);
        while let Some((token, line)) = self.token() {
            if words.is_empty() && !broken {
                begin = line;
            }
            match token {
                Token::Word(word) => words.push(word),
                Token::Broken => broken = true,
                Token::BrokenLine => {
                    words.clear();
                    broken = false;
                }
                Token::Close => {
                    if !words.is_empty() {
                        self.problem(begin, "directive is not terminated by \";\"");
                    }
                    return false;
                }
                Token::Semicolon | Token::Open => {
                    let block = (token == Token::Open).then(|| self.inner(&words, begin, depth));
                    let mut words = std::mem::take(&mut words).into_iter();
                    match words.next() {
                        _ if std::mem::take(&mut broken) => {}
                        None => self.problem(begin, "unexpected \";\" or \"{\""),
                        Some(name) => directives.push(Directive {
                            name,
                            args: words.collect(),
                            place: self.place(begin),
                            block,
                        }),
                    }
                }
            }
        }
        if !words.is_empty() {
            self.problem(begin, "directive is not terminated by \";\"");
        }
        true
    }

    /// Reads the block of the directive `words`, after its `{`.
    fn inner(&mut self, words: &[String], begin: u32, depth: usize) -> Vec<Directive> {
        let mut directives = Vec::new();
        let ended = if words.first().is_some_and(|name| name.ends_with("_by_lua_block")) {
            self.skip_lua()
        } else if depth + 1 >= DEPTH_MAX {
            self.problem(begin, "blocks are nested too deep");
            self.skip_block()
        } else {
            self.block(&mut directives, depth + 1)
        };
        if ended {
            self.problem(begin, "block is not closed by \"}\"");
        }
        directives
    }

    /// Passes over a block and those in it; `true` when the file ended first.
    fn skip_block(&mut self) -> bool {
        let mut open = 1_usize;
        while let Some((token, _)) = self.token() {
            match token {
                Token::Open => open += 1,
                Token::Close => open -= 1,
                _ => {}
            }
            if open == 0 {
                return false;
            }
        }
        true
    }

    fn token(&mut self) -> Option<(Token, u32)> {
        loop {
            match self.peek()? {
                b' ' | b'\t' | b'\r' | b'\n' => self.bump(),
                b'#' => {
                    while self.peek().is_some_and(|byte| byte != b'\n') {
                        self.bump();
                    }
                }
                _ => break,
            }
        }
        let line = self.line;
        let token = match self.peek()? {
            b';' => self.single(Token::Semicolon),
            b'{' => self.single(Token::Open),
            b'}' => self.single(Token::Close),
            quote @ (b'"' | b'\'') => self.quoted(quote),
            _ => self.bare(),
        };
        Some((token, line))
    }

    fn single(&mut self, token: Token) -> Token {
        self.bump();
        token
    }

    fn bare(&mut self) -> Token {
        let mut word = Vec::new();
        let mut after_dollar = false;
        while let Some(byte) = self.peek() {
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' | b';' => break,
                b'{' if !after_dollar => break,
                b'\\' => self.escape(&mut word),
                _ => {
                    word.push(byte);
                    self.bump();
                }
            }
            after_dollar = byte == b'$';
        }
        Token::Word(String::from_utf8_lossy(&word).into_owned())
    }

    fn quoted(&mut self, quote: u8) -> Token {
        let (start, line) = (self.at, self.line);
        self.bump();
        let mut word = Vec::new();
        loop {
            match self.peek() {
                None => {
                    // Most likely the quote was forgotten on this line: what follows it is still readable.
                    (self.at, self.line) = (start, line);
                    self.problem(line, "quote is not closed");
                    while self.peek().is_some_and(|byte| byte != b'\n') {
                        self.bump();
                    }
                    return Token::BrokenLine;
                }
                Some(b'\\') => self.escape(&mut word),
                Some(byte) if byte == quote => break,
                Some(byte) => {
                    word.push(byte);
                    self.bump();
                }
            }
        }
        self.bump();
        match self.peek() {
            None | Some(b' ' | b'\t' | b'\r' | b'\n' | b';' | b'{') => {}
            // `if ($a = "b")`.
            Some(b')') => {}
            Some(_) => {
                self.problem(self.line, "unexpected text after a closing quote");
                self.bare();
                return Token::Broken;
            }
        }
        Token::Word(String::from_utf8_lossy(&word).into_owned())
    }

    /// A backslash: kept, except before quotes and itself, and `\t`, `\r`, `\n` are what they say.
    fn escape(&mut self, word: &mut Vec<u8>) {
        self.bump();
        let Some(byte) = self.peek() else {
            word.push(b'\\');
            return;
        };
        match byte {
            b'"' | b'\'' | b'\\' => word.push(byte),
            b't' => word.push(b'\t'),
            b'r' => word.push(b'\r'),
            b'n' => word.push(b'\n'),
            _ => word.extend([b'\\', byte]),
        }
        self.bump();
    }

    /// Passes over Lua up to the brace that closes the block; `true` when the file ended first. Braces in Lua's
    /// strings and comments do not count.
    fn skip_lua(&mut self) -> bool {
        let mut open = 1_usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'{' => open += 1,
                b'}' => open -= 1,
                b'"' | b'\'' => self.skip_lua_string(byte),
                b'[' => {
                    self.skip_lua_long();
                    continue;
                }
                b'-' if self.bytes.get(self.at + 1) == Some(&b'-') => {
                    self.at += 2;
                    if !(self.peek() == Some(b'[') && self.skip_lua_long()) {
                        while self.peek().is_some_and(|byte| byte != b'\n') {
                            self.bump();
                        }
                    }
                    continue;
                }
                _ => {}
            }
            self.bump();
            if open == 0 {
                return false;
            }
        }
        true
    }

    /// Stands on a quote; ends on the closing one, or at the end of the line.
    fn skip_lua_string(&mut self, quote: u8) {
        self.bump();
        while let Some(byte) = self.peek() {
            match byte {
                b'\\' => self.bump(),
                b'\n' => return,
                _ if byte == quote => return,
                _ => {}
            }
            self.bump();
        }
    }

    /// Passes over `[[...]]`, `[=[...]=]`, or over one bracket that begins no such thing.
    fn skip_lua_long(&mut self) -> bool {
        let rest = &self.bytes[self.at + 1..];
        let level = rest.iter().take_while(|byte| **byte == b'=').count();
        self.bump();
        if rest.get(level) != Some(&b'[') {
            return false;
        }
        let close = [b"]".as_slice(), &vec![b'='; level], b"]"].concat();
        while self.at < self.bytes.len() && !self.bytes[self.at..].starts_with(&close) {
            self.bump();
        }
        self.at = (self.at + close.len()).min(self.bytes.len());
        true
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn bump(&mut self) {
        if self.peek() == Some(b'\n') {
            self.line = self.line.saturating_add(1);
        }
        self.at = (self.at + 1).min(self.bytes.len());
    }

    fn place(&self, line: u32) -> Place {
        Place { file: Arc::clone(self.file), line }
    }

    fn problem(&mut self, line: u32, text: &str) {
        self.problems.push(Problem { place: self.place(line), text: text.to_owned() });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn show(directives: &[Directive], indent: usize, out: &mut String) {
        for directive in directives {
            let args: String = directive.args.iter().map(|arg| format!(" <{arg}>")).collect();
            let place = directive.place.line;
            out.push_str(&format!("{:indent$}{place} {}{args}\n", "", directive.name));
            show(directive.block.as_deref().unwrap_or(&[]), indent + 2, out);
        }
    }

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let (directives, problems) = parse(text.as_bytes(), &"f".into());
        let mut shown = String::new();
        show(&directives, 0, &mut shown);
        for problem in problems {
            shown.push_str(&format!("! {} {}\n", problem.place.line, problem.text));
        }
        assert_eq!(shown.trim_end(), expected.trim());
    }

    #[test]
    fn words_quotes_escapes_and_comments() {
        check(
            "a 'b c' \"d\\\"e\" f#g ${h}i \"j\nk\"; # l {\nlog_format m '$n \\'o\\'' \\.php\\t;\n",
            "1 a <b c> <d\"e> <f#g> <${h}i> <j\nk>\n3 log_format <m> <$n 'o'> <\\.php\t>",
        );
    }

    #[test]
    fn crlf_and_byte_order_mark() {
        check("\u{feff}http {\r\n  a b;\r\n}\r\n", "1 http\n  2 a <b>");
    }

    #[test]
    fn regex_quantifier_opens_a_block_as_in_nginx_unless_quoted() {
        check("location ~ \"^/a{2}$\" { b; }", "1 location <~> <^/a{2}$>\n  1 b");
    }

    #[test]
    fn lua_braces_in_strings_and_comments() {
        check(
            "content_by_lua_block {\n local a = '}' -- }\n --[[ } ]] b = [==[ } ]] ]==] t = {1}\n t[1] = \"\\\"}\"\n}\nc d;",
            "1 content_by_lua_block\n6 c <d>",
        );
    }

    #[test]
    fn a_problem_costs_its_own_directive() {
        check(
            "} a b;\n; c d;",
            "1 a <b>\n2 c <d>\n! 1 unexpected \"}\"\n! 2 unexpected \";\" or \"{\"",
        );
        check(
            "s { listen 80\n}\nt { e f; }",
            "1 s\n3 t\n  3 e <f>\n! 1 directive is not terminated by \";\"",
        );
        check("a \"b;\nc d;\ne f;\n", "2 c <d>\n3 e <f>\n! 1 quote is not closed");
        check("a \"b\"c;\nd e;", "2 d <e>\n! 1 unexpected text after a closing quote");
        check("a { b c;", "1 a\n  1 b <c>\n! 1 block is not closed by \"}\"");
    }

    #[test]
    fn depth_is_bounded() {
        let (directives, problems) = parse("a {".repeat(100_000).as_bytes(), &"f".into());
        assert_eq!(directives.len(), 1);
        assert!(problems.iter().any(|problem| problem.text.contains("too deep")));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes: Vec<u8>) {
            parse(&bytes, &"f".into());
        }

        #[test]
        fn anything_that_looks_like_it_is_read(text in "(server|location|[{};\"'\\\\#$ \n]|_by_lua_block|\\[\\[|--){0,60}") {
            parse(text.as_bytes(), &"f".into());
        }
    }
}
