//! Files of the file provider are templates of Go's text/template with sprig. What stands there by the environment is
//! put in; blocks and all other actions cost the lines that they stand in.

use std::collections::BTreeMap;

use crate::document::Syntax;

/// The text with its lines in their places, and the lines that were left out, each with why.
pub(super) fn expand(
    text: &str,
    syntax: Syntax,
    environment: &BTreeMap<String, String>,
) -> (String, Vec<(u32, String)>) {
    let mut problems = Vec::new();
    if !text.contains("{{") {
        return (text.to_owned(), problems);
    }
    let mut out = String::with_capacity(text.len());
    // Blocks that are open, and whether anything of them is left out already.
    let mut depth = 0_usize;
    for (number, line) in (1_u32..).zip(text.split_inclusive('\n')) {
        let before = depth;
        let (written, opened, closed) = line_of(line, environment);
        depth = (depth + opened).saturating_sub(closed);
        match written {
            Some(written) if before == 0 && depth == 0 => out.push_str(&written),
            _ => {
                if before == 0 {
                    problems.push((number, "a template that is not read".to_owned()));
                }
                if syntax == Syntax::Json || line.ends_with('\n') {
                    out.push('\n');
                }
            }
        }
    }
    (out, problems)
}

/// The line with its actions put in, if all can be; and how many blocks it opens and closes.
fn line_of(line: &str, environment: &BTreeMap<String, String>) -> (Option<String>, usize, usize) {
    let (mut out, mut opened, mut closed, mut known) = (String::new(), 0, 0, true);
    let mut rest = line;
    while let Some((before, inner)) = rest.split_once("{{") {
        let Some((action, after)) = inner.split_once("}}") else {
            known = false;
            break;
        };
        out.push_str(before);
        rest = after;
        let action = action.trim_matches(['-', ' ', '\t']);
        match action.split_whitespace().next().unwrap_or("") {
            "range" | "if" | "with" | "define" | "block" => opened += 1,
            "end" => closed += 1,
            _ => {}
        }
        match value(action, environment) {
            Some(value) => out.push_str(&value),
            None => known = false,
        }
    }
    out.push_str(rest);
    (known.then_some(out), opened, closed)
}

/// `env "NAME"`, comments, and a default for what is not there.
fn value(action: &str, environment: &BTreeMap<String, String>) -> Option<String> {
    if action.starts_with("/*") {
        return Some(String::new());
    }
    let (first, rest) = action.split_once('|').unwrap_or((action, ""));
    let name = first.trim().strip_prefix("env")?.trim();
    let name = name.strip_prefix(['"', '`'])?.strip_suffix(['"', '`'])?;
    let found = environment.get(name).cloned().unwrap_or_default();
    let rest = rest.trim();
    if rest.is_empty() {
        return Some(found);
    }
    let default = rest.strip_prefix("default")?.trim().strip_prefix('"')?.strip_suffix('"')?;
    Some(if found.is_empty() { default.to_owned() } else { found })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_is_put_in_and_blocks_are_left_out() {
        let environment = BTreeMap::from([("PORT".to_owned(), "81".to_owned())]);
        let text = "a: http://x:{{ env \"PORT\" }}/{{- /* c */ -}}\n{{ range $i, $e := until 3 }}\nb{{ $i }}: 1\n{{ end }}\nc: \
            {{ env \"NO\" | default \"d\" }}\nd: {{ .X }}\n";
        let (out, problems) = expand(text, Syntax::Yaml, &environment);
        assert_eq!(out, "a: http://x:81/\n\n\n\nc: d\n\n");
        assert_eq!(problems.iter().map(|(line, _)| *line).collect::<Vec<_>>(), [2, 6]);
    }
}
