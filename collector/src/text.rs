//! Explanations as plain text: one renderer for `explain`, `watch` and alerts.
//!
//! Text that came from hosts cannot steer the terminal it is shown on: every control character is shown, none is sent.

pub(crate) mod explanation;
pub(crate) mod moment;
#[cfg(test)]
pub(crate) mod sample;
pub(crate) mod told;
pub(crate) mod words;

pub use explanation::explanation;

/// How wide, and with colours or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paint {
    /// Escape sequences for colours and weight.
    pub colours: bool,
    /// Columns to wrap at.
    pub width: usize,
}

impl Paint {
    /// For mails, files and pipes.
    pub const PLAIN: Self = Self { colours: false, width: 100 };

    pub(crate) fn bold(self, text: &str) -> String {
        self.sgr("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.sgr("2", text)
    }

    pub(crate) fn red(self, text: &str) -> String {
        self.sgr("1;31", text)
    }

    pub(crate) fn yellow(self, text: &str) -> String {
        self.sgr("33", text)
    }

    pub(crate) fn green(self, text: &str) -> String {
        self.sgr("32", text)
    }

    fn sgr(self, code: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// `text` with its control characters shown instead of sent.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' | '\t' => ' ',
            c if c.is_control() => char::REPLACEMENT_CHARACTER,
            // Marks that turn the direction of what follows could make a line read as another.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => char::REPLACEMENT_CHARACTER,
            c => c,
        })
        .collect()
}

/// Breaks cleaned `text` into lines of at most `width` characters, at blanks where there are some.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(WRAP_MIN);
    let mut lines = Vec::new();
    let mut line = String::new();
    let mut length = 0;
    for word in text.split_whitespace() {
        let mut word: Vec<char> = word.chars().collect();
        if length > 0 && length + 1 + word.len() <= width {
            line.push(' ');
            length += 1;
        } else if length > 0 {
            lines.push(std::mem::take(&mut line));
            length = 0;
        }
        while word.len() > width {
            lines.push(word.drain(..width).collect());
        }
        length += word.len();
        line.extend(word);
    }
    if !line.is_empty() || lines.is_empty() {
        lines.push(line);
    }
    lines
}

/// Below that a line holds no word; the terminal may then break lines as it likes.
const WRAP_MIN: usize = 24;

/// `lead`, then `text` wrapped, each further line indented by the width of `lead`, which has no escapes in it.
pub(crate) fn hang(lead: &str, text: &str, paint: Paint) -> String {
    let indent = lead.chars().count();
    let mut out = String::new();
    for (at, line) in wrap(&clean(text), paint.width.saturating_sub(indent)).iter().enumerate() {
        if at == 0 {
            out.push_str(lead);
        } else {
            out.extend(std::iter::repeat_n(' ', indent));
        }
        out.push_str(line);
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn words_longer_than_a_line_are_broken() {
        let lines = wrap("a 0123456789012345678901234567890123456789 b", 24);
        assert_eq!(lines, ["a", "012345678901234567890123", "4567890123456789 b"]);
        assert_eq!(wrap("", 80), [""]);
    }

    proptest! {
        #[test]
        fn no_text_steers_the_terminal_or_leaves_its_columns(
            text in "[\\x00-\\x7f\\u{80}-\\u{a0}\\u{202a}-\\u{202e} ]{0,200}",
            width in 0usize..120,
        ) {
            for line in hang("  ", &text, Paint { colours: false, width }).lines() {
                prop_assert!(!line.chars().any(char::is_control), "{line:?}");
                prop_assert!(line.chars().count() <= width.max(WRAP_MIN + 2), "{line:?}");
            }
        }
    }
}
