//! Words of one line: section 2.2 "Quoting and escaping" and 2.3 "Environment variables" of the manual,
//! `parse_line()` of src/tools.c.

use std::collections::BTreeMap;

/// Words of a line, and variables that it names and nobody set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// Without quotes and escapes, variables put in.
    pub words: Vec<String>,
    /// Names that stand for nothing.
    pub unset: Vec<String>,
    /// A quote or a brace is not closed.
    pub open: bool,
}

/// The environment that a configuration is read with.
pub type Environment = BTreeMap<String, String>;

/// Cuts a line into words.
pub fn split(line: &str, environment: &Environment) -> Words {
    let mut out = Words::default();
    let mut word: Option<String> = None;
    let mut quoted = false;
    let mut rest = line;
    while let Some(byte) = rest.chars().next() {
        let after = &rest[byte.len_utf8()..];
        rest = after;
        match byte {
            '"' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            '\'' if !quoted => {
                let end = after.find('\'');
                out.open |= end.is_none();
                let end = end.unwrap_or(after.len());
                word.get_or_insert_default().push_str(&after[..end]);
                rest = after.get(end + 1..).unwrap_or("");
            }
            '\\' => {
                let (escaped, left) = escape(after);
                word.get_or_insert_default().push(escaped);
                rest = left;
            }
            '#' if !quoted => break,
            ' ' | '\t' | '\r' if !quoted => out.words.extend(word.take()),
            '$' if quoted => match variable(after, environment) {
                Some((value, left)) => {
                    if value.is_none() {
                        out.unset.push(name(after));
                    }
                    word.get_or_insert_default().push_str(&value.unwrap_or_default());
                    rest = left;
                }
                None => word.get_or_insert_default().push('$'),
            },
            _ => word.get_or_insert_default().push(byte),
        }
    }
    out.open |= quoted;
    out.words.extend(word);
    out
}

/// Puts variables into an address, where they stand outside of quotes too (`str2sa_range()`).
pub fn expand(word: &str, environment: &Environment) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        rest = after;
        match variable(after, environment).filter(|_| after.starts_with('{')) {
            Some((value, left)) => {
                out.push_str(&value.unwrap_or_default());
                rest = left;
            }
            None => out.push('$'),
        }
    }
    out + rest
}

fn escape(after: &str) -> (char, &str) {
    let Some(byte) = after.chars().next() else { return ('\\', after) };
    let left = &after[byte.len_utf8()..];
    match byte {
        'n' => ('\n', left),
        'r' => ('\r', left),
        't' => ('\t', left),
        'x' => {
            let number = left.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
            number.map_or(('\\', after), |number| (char::from(number), &left[2..]))
        }
        ' ' | '#' | '\\' | '"' | '\'' | '$' => (byte, left),
        // Others keep their backslash: it is a regular expression's.
        _ => ('\\', after),
    }
}

fn name(after: &str) -> String {
    let after = after.strip_prefix('{').unwrap_or(after);
    let is = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '.';
    after.chars().take_while(|c| is(*c)).collect()
}

/// Value of the variable named behind a `$`, and what follows. `None`: no name stands there.
fn variable<'a>(after: &'a str, environment: &Environment) -> Option<(Option<String>, &'a str)> {
    let name = name(after);
    if name.is_empty() {
        return None;
    }
    let value = environment.get(&name).cloned();
    let Some(inner) = after.strip_prefix('{') else { return Some((value, &after[name.len()..])) };
    let (inner, left) = inner.split_once('}')?;
    let default = inner[name.len()..].strip_prefix('-').map(str::to_owned);
    Some((value.or(default), left))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn environment() -> Environment {
        [("PORT", "8080"), ("HOST", "10.0.0.7")].map(|(n, v)| (n.to_owned(), v.to_owned())).into()
    }

    #[track_caller]
    fn check(line: &str, expected: &[&str]) {
        assert_eq!(split(line, &environment()).words, expected, "{line}");
    }

    #[test]
    fn as_the_manual_has_it() {
        check("  server a 10.0.0.1:80 # x", &["server", "a", "10.0.0.1:80"]);
        check(r#"log-format "%ci \"%r\"""#, &["log-format", r#"%ci "%r""#]);
        check(r"log-format %ci\ %r\#", &["log-format", "%ci %r#"]);
        check(r"acl a path_reg '\.php$ #'", &["acl", "a", "path_reg", r"\.php$ #"]);
        check(r#"bind "$HOST:${PORT}" a'b'"c""#, &["bind", "10.0.0.7:8080", "abc"]);
        check(
            r#"x "${NONE-1}" "${NONE}y" '$PORT' $PORT "\$PORT""#,
            &["x", "1", "y", "$PORT", "$PORT", "$PORT"],
        );
        check(r#"x "" "$""#, &["x", "", "$"]);
        assert_eq!(split(r#"a "${NONE}" $NO"#, &environment()).unset, ["NONE"]);
        assert!(split("a \"b", &environment()).open && split("a 'b", &environment()).open);
        assert_eq!(expand("${HOST}:${PORT}$", &environment()), "10.0.0.7:8080$");
    }

    proptest! {
        #[test]
        fn any_line_is_cut(line: String, odd in "[\"'\\\\$#{}x é]{0,20}") {
            split(&line, &environment());
            split(&odd, &environment());
            expand(&odd, &environment());
        }
    }
}
