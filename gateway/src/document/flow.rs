//! YAML as libyaml and yaml-cpp take it, made into YAML by the book.
//!
//! By the book, lines of `[...]`, `{...}` and quoted text must be indented deeper than what holds them, and tabs do not
//! separate; the programs do not mind, and closing a list at the indent of its name is a common hand. Lines stay lines.

/// Where a character stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quote {
    None,
    Single,
    Double,
}

/// The text with such lines indented.
pub(super) fn indented(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + text.len() / 8);
    let mut scanner = Scanner { depth: 0, quote: Quote::None, block: None };
    // Of the line in which the outermost bracket or quote was opened, behind its dashes.
    let mut indent = 0;
    for line in text.split_inclusive('\n') {
        let own = line.len() - line.trim_start_matches(' ').len();
        let blank = line.trim().is_empty();
        if let Some(block) = scanner.block {
            if blank || own > block {
                out.push_str(line);
                continue;
            }
            scanner.block = None;
        }
        let inside = scanner.depth > 0 || scanner.quote != Quote::None;
        if inside && !blank {
            out.extend(std::iter::repeat_n(' ', indent + 1));
        } else if !inside {
            indent = line.len() - line.trim_start_matches([' ', '-']).len();
        }
        scanner.line(line, own, &mut out);
    }
    out
}

struct Scanner {
    depth: usize,
    quote: Quote,
    /// The lines that follow are text as long as they are indented deeper.
    block: Option<usize>,
}

impl Scanner {
    fn line(&mut self, line: &str, indent: usize, out: &mut String) {
        let mut before = ' ';
        let mut escaped = false;
        for (at, c) in line.char_indices() {
            // Quotes and brackets are such only where a value or name begins.
            let begins = before.is_whitespace() || (self.depth > 0 && "[{,:".contains(before));
            match (self.quote, c) {
                (Quote::Double, '\\') if !escaped => escaped = true,
                (Quote::Double, '"') if !escaped => self.quote = Quote::None,
                (Quote::Single, '\'') => self.quote = Quote::None,
                (Quote::Double | Quote::Single, _) => escaped = false,
                (Quote::None, '#') if before.is_whitespace() => {
                    out.push_str(&line[at..]);
                    return;
                }
                (Quote::None, '"') if begins => self.quote = Quote::Double,
                // A quote in a quoted text is two of them.
                (Quote::None, '\'') if begins || before == '\'' => self.quote = Quote::Single,
                (Quote::None, '[' | '{') if begins || self.depth > 0 => self.depth += 1,
                (Quote::None, ']' | '}') => self.depth = self.depth.saturating_sub(1),
                (Quote::None, '|' | '>') if begins && self.depth == 0 && ends(&line[at + 1..]) => {
                    self.block = Some(indent);
                }
                _ => {}
            }
            out.push(if c == '\t' && self.quote == Quote::None { ' ' } else { c });
            before = c;
        }
    }
}

/// Nothing but indicators of a block of text, and a comment.
fn ends(rest: &str) -> bool {
    let rest = rest.trim_start_matches(['+', '-']).trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = rest.trim_start_matches(['+', '-']);
    rest.trim().is_empty() || (rest.starts_with(' ') && rest.trim_start().starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::super::yaml::parse;
    use super::super::{Node, Value};

    #[track_caller]
    fn same(text: &str, by_the_book: &str) {
        let (found, errors) = parse(text);
        let (expected, _) = parse(by_the_book);
        assert_eq!((shape(&found), errors), (shape(&expected), Vec::new()), "{text}");
    }

    /// Without lines, which differ.
    fn shape(node: &Node) -> String {
        let all: Vec<String> = match &node.value {
            Value::Map(entries) => {
                entries.iter().map(|(name, node)| format!("{name}:{}", shape(node))).collect()
            }
            Value::List(items) => items.iter().map(shape).collect(),
            Value::Null | Value::Scalar(_) => Vec::new(),
        };
        format!("{}({})", node.scalar().unwrap_or(""), all.join(","))
    }

    #[test]
    fn as_the_programs_take_it() {
        same("a:\n  d: [\n    \"x\",\n  ]\n  b: 1\n", "a: {d: [x], b: 1}");
        same("a: [\n1,\n2\n]\nb: it's {\n", "a: [1, 2]\nb: \"it's {\"");
        same("- a: {x: 1,\n  y: 2}\n- b: 'it''s\n[x'\n", "- {a: {x: 1, y: 2}}\n- b: \"it's [x\"");
        same("a:\t1\nb: {\n\tc: \"}\"\n}\n", "a: 1\nb: {c: \"}\"}");
        same("a: |\n  [\n  {\nb: [\nx # ]\n]\n", "a: \"[\\n{\\n\"\nb: [x]");
        same(
            "a:\n- {b: 1,\nc: 2}\n- r: x[0]\nd: [\n1]\n",
            "a: [{b: 1, c: 2}, {r: 'x[0]'}]\nd: [1]",
        );
    }

    #[test]
    fn lines_stay_lines() {
        let (root, errors) = parse("a: [\n1,\n2\n]\nb: 2\n");
        assert_eq!((root.get("b").unwrap().line, root.list("a")[1].line, errors.len()), (5, 3, 0));
    }
}
