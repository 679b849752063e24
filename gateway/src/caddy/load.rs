//! A Caddyfile with its environment and everything it imports: files, snippets, and the arguments
//! of both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::syntax::{Node, parse};
use crate::files::Files;
use crate::place::{Place, Problem};

/// Imports inside of imports; Caddy refuses cycles.
const DEPTH_MAX: usize = 16;
/// Directives that imports may add: a snippet that imports another one twice doubles with each
/// level.
const NODES_MAX: usize = 500_000;

/// Reads a Caddyfile.
#[derive(Debug)]
pub struct Loader<'a> {
    files: Files,
    environment: &'a BTreeMap<String, String>,
    snippets: BTreeMap<String, Vec<Node>>,
    nodes: usize,
    /// What was not understood.
    pub problems: Vec<Problem>,
}

impl<'a> Loader<'a> {
    /// Nothing is read yet.
    pub fn new(files: Files, environment: &'a BTreeMap<String, String>) -> Self {
        Self { files, environment, snippets: BTreeMap::new(), nodes: 0, problems: Vec::new() }
    }

    /// Files that were read, and directories in which patterns were looked for.
    pub fn watched(self) -> Vec<PathBuf> {
        self.files.watched
    }

    /// The text of a file with its environment, or the problem at `from`.
    pub fn text(&mut self, path: &Path, from: &Place) -> Option<String> {
        match self.files.read(path) {
            Ok(bytes) => Some(substituted(&String::from_utf8_lossy(&bytes), self.environment)),
            Err(error) => {
                self.problem(from, format!("cannot read {}: {error}", path.display()));
                None
            }
        }
    }

    /// The tree of the main file.
    pub fn main(&mut self, text: &str, path: &Path) -> Vec<Node> {
        self.expand(text, path, &[], 0)
    }

    fn expand(&mut self, text: &str, path: &Path, arguments: &[String], depth: usize) -> Vec<Node> {
        let (nodes, problems) = parse(text, &path.to_string_lossy().into());
        self.problems.extend(problems);
        self.imported(nodes, path, arguments, depth)
    }

    fn imported(
        &mut self,
        nodes: Vec<Node>,
        path: &Path,
        arguments: &[String],
        depth: usize,
    ) -> Vec<Node> {
        let mut all = Vec::new();
        for mut node in nodes {
            self.nodes += 1;
            if self.nodes > NODES_MAX {
                self.problem(&node.place(), "imports add too much".to_owned());
                return all;
            }
            if depth > 0 {
                node.words = with_arguments(node.words, arguments);
            }
            let snippet = node.name().strip_prefix('(').and_then(|name| name.strip_suffix(')'));
            if let Some(name) = snippet.filter(|_| node.braces) {
                self.snippets.insert(name.to_owned(), std::mem::take(&mut node.block));
            } else if node.name() == "import" {
                self.import(&node, path, depth, &mut all);
            } else {
                let block = std::mem::take(&mut node.block);
                node.block = self.imported(block, path, arguments, depth);
                all.push(node);
            }
        }
        all
    }

    fn import(&mut self, node: &Node, path: &Path, depth: usize, all: &mut Vec<Node>) {
        let arguments = node.words.get(2..).unwrap_or(&[]);
        if depth >= DEPTH_MAX {
            self.problem(&node.place(), "imports are nested too deep".to_owned());
            return;
        }
        if let Some(snippet) = self.snippets.get(node.word(1)).cloned() {
            all.extend(self.imported(snippet, path, arguments, depth + 1));
            return;
        }
        let file = path.parent().unwrap_or(Path::new("/")).join(node.word(1));
        let pattern = node.word(1).contains(['*', '?', '[']);
        let found = if pattern { self.files.glob(&file) } else { vec![file] };
        for file in found {
            if self.files.is_directory(&file) {
                continue;
            }
            if let Some(text) = self.text(&file, &node.place()) {
                all.extend(self.expand(&text, &file, arguments, depth + 1));
            }
        }
    }

    fn problem(&mut self, place: &Place, text: String) {
        self.problems.push(Problem { place: place.clone(), text });
    }
}

/// `{$NAME}` and `{$NAME:default}`, replaced before anything else is read.
fn substituted(text: &str, environment: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("{$") {
        out.push_str(&rest[..at]);
        let inner = &rest[at + 2..];
        let end = inner.find(['}', '\n']).filter(|end| inner[*end..].starts_with('}'));
        let Some(end) = end else {
            out.push_str("{$");
            rest = inner;
            continue;
        };
        let (name, default) = inner[..end].split_once(':').unwrap_or((&inner[..end], ""));
        out.push_str(environment.get(name).map_or(default, String::as_str));
        rest = &inner[end + 1..];
    }
    out + rest
}

/// `{args[0]}`, `{args.0}` and `{args[:]}` of an import.
fn with_arguments(words: Vec<String>, arguments: &[String]) -> Vec<String> {
    let mut out = Vec::with_capacity(words.len());
    for word in words {
        if word == "{args[:]}" {
            out.extend(arguments.iter().cloned());
            continue;
        }
        let mut word = word;
        if word.contains("{args") {
            for (index, argument) in arguments.iter().enumerate() {
                word = word.replace(&format!("{{args[{index}]}}"), argument);
                word = word.replace(&format!("{{args.{index}}}"), argument);
            }
        }
        out.push(word);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn environment_and_arguments() {
        let environment = BTreeMap::from([("A".to_owned(), "x".to_owned())]);
        assert_eq!(substituted("{$A} {$B:y:1} {$C} {$", &environment), "x y:1  {$");
        let words = ["{args[0]}:80", "{args.1}", "{args[:]}", "{args[7]}"].map(str::to_owned);
        let arguments = ["a".to_owned(), "b".to_owned()];
        assert_eq!(
            with_arguments(words.to_vec(), &arguments),
            ["a:80", "b", "a", "b", "{args[7]}"]
        );
    }
}
