//! `.if` conditions: section 2.5 "Conditional blocks" of the manual, `cfg_eval_condition()` of src/cfgcond.c.

use super::words::Environment;

/// What is asked of by a condition.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The environment.
    pub environment: &'a Environment,
    /// "2.6.12"; "": the newest.
    pub version: &'a str,
}

/// Whether it holds; `None`: not understood.
pub fn holds(text: &str, asked: Asked<'_>) -> Option<bool> {
    let mut rest = text.trim();
    let held = either(&mut rest, asked, 0)?;
    rest.trim().is_empty().then_some(held)
}

/// Parentheses in parentheses; the program has a bound too.
const DEPTH_MAX: usize = 16;

fn either(rest: &mut &str, asked: Asked<'_>, depth: usize) -> Option<bool> {
    let mut held = all(rest, asked, depth)?;
    while let Some(after) = rest.trim_start().strip_prefix("||") {
        *rest = after;
        held |= all(rest, asked, depth)?;
    }
    Some(held)
}

fn all(rest: &mut &str, asked: Asked<'_>, depth: usize) -> Option<bool> {
    let mut held = term(rest, asked, depth)?;
    while let Some(after) = rest.trim_start().strip_prefix("&&") {
        *rest = after;
        held &= term(rest, asked, depth)?;
    }
    Some(held)
}

fn term(rest: &mut &str, asked: Asked<'_>, depth: usize) -> Option<bool> {
    let text = rest.trim_start();
    if depth > DEPTH_MAX {
        return None;
    }
    if let Some(after) = text.strip_prefix('!') {
        *rest = after;
        return term(rest, asked, depth + 1).map(|held| !held);
    }
    if let Some(after) = text.strip_prefix('(') {
        *rest = after;
        let held = either(rest, asked, depth + 1)?;
        *rest = rest.trim_start().strip_prefix(')')?;
        return Some(held);
    }
    let length = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(text.len());
    let (name, after) = text.split_at(length);
    let Some(arguments) = after.strip_prefix('(') else {
        *rest = after;
        return if name.is_empty() { Some(false) } else { Some(name.parse::<i64>().ok()? != 0) };
    };
    let (arguments, left) = arguments.split_once(')')?;
    *rest = left;
    predicate(name, arguments, asked)
}

fn predicate(name: &str, arguments: &str, asked: Asked<'_>) -> Option<bool> {
    let mut words = arguments.splitn(2, ',').map(str::trim);
    let (first, second) = (words.next()?, words.next().unwrap_or(""));
    let newest = asked.version.is_empty();
    match name {
        "defined" => Some(asked.environment.contains_key(first)),
        "streq" => Some(first == second),
        "strneq" => Some(first != second),
        "strstr" => Some(first.contains(second)),
        "version_atleast" => Some(newest || numbers(asked.version) >= numbers(first)),
        "version_before" => Some(!newest && numbers(asked.version) < numbers(first)),
        // Every build of a distribution has TLS and regular expressions.
        "feature" => Some(true),
        _ => None,
    }
}

fn numbers(version: &str) -> Vec<u32> {
    version.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<bool>) {
        let environment = [("A".to_owned(), "b".to_owned())].into();
        let asked = Asked { environment: &environment, version: "2.6.12" };
        assert_eq!(holds(text, asked), expected, "{text}");
    }

    #[test]
    fn conditions() {
        check("defined(A) && !defined(B)", Some(true));
        check("version_atleast(2.4)", Some(true));
        check("version_before(2.6) || streq(x,x)", Some(true));
        check("version_atleast(2.10)", Some(false));
        check("!(strneq(a,b) && 0)", Some(true));
        check("", Some(false));
        check("1", Some(true));
        check("enabled(POLL)", None);
        check("streq(a,b", None);
    }
}
