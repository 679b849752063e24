//! A configuration with everything it includes, as httpd takes it line by line: `Include`,
//! `Define`, `${VAR}`,
//! `<IfModule>` and its siblings, `<Macro>` and `Use` mean something only for what follows them.
//!
//! Pages: <https://httpd.apache.org/docs/2.4/configuring.html>, mod_core, mod_so, mod_macro,
//! mod_version.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::known::{BUILT_IN, SECTIONS, is_version, known, module_name};
use super::syntax::{Line, Lines, Node, line, words};
use crate::files::Files;
use crate::place::{Place, Problem};

/// Includes inside of includes, and macros inside of macros; httpd stops at 128 and 10.
const DEPTH_MAX: usize = 16;
/// Sections inside of sections.
const NESTED_MAX: usize = 64;
/// Text that `Use` may add, in bytes: a macro that uses another one twice doubles with each level.
const EXPANDED_MAX: usize = 16 << 20;

/// What the meaning of a text depends on.
pub struct Given {
    /// Where relative names begin before `ServerRoot` says it.
    pub server_root: PathBuf,
    /// `-D`
    pub defines: BTreeSet<String>,
    /// The environment.
    pub environment: BTreeMap<String, String>,
    /// "2.4.71"; "": not known.
    pub version: String,
}

/// Reads files into one tree.
pub struct Loader {
    files: Files,
    /// Where relative names begin.
    pub server_root: PathBuf,
    defines: BTreeMap<String, String>,
    environment: BTreeMap<String, String>,
    version: String,
    modules: BTreeSet<String>,
    macros: BTreeMap<String, Macro>,
    expanded: usize,
    /// What was not understood.
    pub problems: Vec<Problem>,
}

#[derive(Clone)]
struct Macro {
    parameters: Vec<String>,
    body: String,
}

/// An open section.
enum Open {
    /// It is part of the tree.
    Kept(Node),
    /// Its condition holds: what stands in it belongs to what is around it.
    Passed(String),
}

impl Loader {
    /// Nothing is read yet.
    pub fn new(files: Files, given: Given) -> Self {
        let defines = given.defines.into_iter().map(|name| (name, String::new())).collect();
        Self {
            files,
            server_root: given.server_root,
            defines,
            environment: given.environment,
            version: given.version,
            modules: BTreeSet::new(),
            macros: BTreeMap::new(),
            expanded: 0,
            problems: Vec::new(),
        }
    }

    /// Files that were read, and directories in which patterns were looked for.
    pub fn watched(&mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.files.watched)
    }

    /// Adds what `path` holds to `nodes`; `false`: it could not be read, which is told at `from`.
    pub fn file(&mut self, path: &Path, from: &Place, nodes: &mut Vec<Node>, depth: usize) -> bool {
        match self.files.read(path) {
            Ok(bytes) => {
                self.text(&bytes, &path.to_string_lossy().into(), None, nodes, depth);
                true
            }
            Err(error) => {
                self.problem(from, format!("cannot read {}: {error}", path.display()));
                false
            }
        }
    }

    /// Adds what a text holds. `used`: it is a macro's, and this is where it is used.
    pub fn text(
        &mut self,
        bytes: &[u8],
        file: &Arc<str>,
        used: Option<u32>,
        nodes: &mut Vec<Node>,
        depth: usize,
    ) {
        let mut stack: Vec<Open> = Vec::new();
        let mut lines = Lines::new(bytes);
        while let Some((number, text)) = lines.next() {
            let place = Place { file: file.clone(), line: used.unwrap_or(number) };
            match line(&text) {
                Line::Nothing => {}
                Line::Close(name) => self.close(name, &place, &mut stack, nodes),
                Line::Open(name, rest) => {
                    let name = name.to_ascii_lowercase();
                    let rest = self.resolved(rest, &place);
                    if name == "virtualhost" {
                        // It stands in no other section: one before it was not closed.
                        self.unclosed(&mut stack, nodes);
                    }
                    let deep = stack.len() >= NESTED_MAX;
                    if deep {
                        self.problem(&place, "sections are nested too deep".to_owned());
                    }
                    match self.open(&name, &rest, &place) {
                        _ if deep => self.skip(&name, &place, &mut lines),
                        Some(open) => stack.push(open),
                        None if name == "macro" => self.define_macro(&rest, &place, &mut lines),
                        None => self.skip(&name, &place, &mut lines),
                    }
                }
                Line::Directive(name, rest) => {
                    let rest = self.resolved(rest, &place);
                    let inner = stack.iter_mut().rev().find_map(|open| match open {
                        Open::Kept(node) => Some(&mut node.inner),
                        Open::Passed(_) => None,
                    });
                    let name = name.to_ascii_lowercase();
                    self.directive(&name, &rest, place, inner.unwrap_or(nodes), depth);
                }
            }
        }
        let place = Place { file: file.clone(), line: used.unwrap_or(1) };
        self.unclosed(&mut stack, nodes);
        if !stack.is_empty() {
            self.problem(&place, "a condition is not closed".to_owned());
        }
    }

    /// Ends the sections that are open, but for conditions around them.
    fn unclosed(&mut self, stack: &mut Vec<Open>, nodes: &mut Vec<Node>) {
        let kept = stack.iter().position(|open| matches!(open, Open::Kept(_)));
        while kept.is_some_and(|kept| stack.len() > kept)
            && let Some(open) = stack.pop()
        {
            if let Open::Kept(node) = &open {
                let place = node.place.clone();
                self.problem(&place, "section is not closed".to_owned());
            }
            keep(open, stack, nodes);
        }
    }

    fn close(&mut self, name: &str, place: &Place, stack: &mut Vec<Open>, nodes: &mut Vec<Node>) {
        let is = |open: &Open| match open {
            Open::Kept(node) => node.name.eq_ignore_ascii_case(name),
            Open::Passed(open) => open.eq_ignore_ascii_case(name),
        };
        let Some(at) = stack.iter().rposition(is) else {
            self.problem(place, "closes a section that is not open".to_owned());
            return;
        };
        if at + 1 < stack.len() {
            self.problem(place, "closes a section around one that is open".to_owned());
        }
        while stack.len() > at {
            if let Some(open) = stack.pop() {
                keep(open, stack, nodes);
            }
        }
    }

    /// `None`: what stands in it does not count.
    fn open(&self, name: &str, rest: &str, place: &Place) -> Option<Open> {
        let passed = |holds: bool| holds.then(|| Open::Passed(name.to_owned()));
        let (not, what) = rest.strip_prefix('!').map_or((false, rest), |rest| (true, rest.trim()));
        match name {
            // A program with everything compiled in loads nothing: nobody can tell what it has.
            "ifmodule" => {
                let name = module_name(what);
                let has = self.modules.contains(&name) || BUILT_IN.contains(&name.as_str());
                passed(self.modules.is_empty() || has != not)
            }
            "ifdefine" => passed(self.defines.contains_key(what) != not),
            "ifversion" => passed(is_version(&self.version, rest)),
            "iffile" => {
                let path = self.server_root.join(words(what).first()?);
                passed(self.files.is_there(&path) != not)
            }
            // Directives of all modules are taken as known.
            "ifdirective" | "ifsection" => passed(!not),
            // What each request decides may happen.
            "if" | "elseif" | "else" | "limit" | "limitexcept" => passed(true),
            _ => SECTIONS.iter().find(|known| **known == name).map(|name| {
                let (args, place) = (words(rest), place.clone());
                Open::Kept(Node { name, args, place, inner: Vec::new() })
            }),
        }
    }

    /// Passes over a section and those of its name inside of it.
    fn skip(&mut self, name: &str, place: &Place, lines: &mut Lines<'_>) {
        let mut open = 1_usize;
        for (_, text) in lines.by_ref() {
            match line(&text) {
                Line::Open(inner, _) if inner.eq_ignore_ascii_case(name) => open += 1,
                Line::Close(inner) if inner.eq_ignore_ascii_case(name) => open -= 1,
                _ => {}
            }
            if open == 0 {
                return;
            }
        }
        self.problem(place, "section is not closed".to_owned());
    }

    fn define_macro(&mut self, rest: &str, place: &Place, lines: &mut Lines<'_>) {
        let mut parameters = words(rest).into_iter();
        let Some(name) = parameters.next() else { return };
        let mut body = String::new();
        for (_, text) in lines.by_ref() {
            if matches!(line(&text), Line::Close(name) if name.eq_ignore_ascii_case("macro")) {
                let parameters = parameters.collect();
                self.macros.insert(name.to_ascii_lowercase(), Macro { parameters, body });
                return;
            }
            body.push_str(&text);
            body.push('\n');
        }
        self.problem(place, "section is not closed".to_owned());
    }

    fn directive(
        &mut self,
        name: &str,
        rest: &str,
        place: Place,
        nodes: &mut Vec<Node>,
        depth: usize,
    ) {
        match name {
            "include" | "includeoptional" => {
                self.include(&words(rest), name == "include", &place, nodes, depth);
            }
            "define" => {
                let mut words = words(rest).into_iter();
                if let Some(name) = words.next() {
                    self.defines.insert(name, words.next().unwrap_or_default());
                }
            }
            "undefine" => drop(self.defines.remove(rest)),
            "loadmodule" => {
                for word in words(rest) {
                    self.modules.insert(module_name(&word));
                }
            }
            "serverroot" => {
                self.server_root = words(rest).into_iter().next().unwrap_or_default().into();
            }
            "use" => self.use_macro(&words(rest), &place, nodes, depth),
            _ => {
                if let Some(name) = known(name, rest) {
                    nodes.push(Node { name, args: words(rest), place, inner: Vec::new() });
                }
            }
        }
    }

    fn include(
        &mut self,
        names: &[String],
        needed: bool,
        place: &Place,
        nodes: &mut Vec<Node>,
        depth: usize,
    ) {
        let Some(name) = names.first() else { return };
        if depth >= DEPTH_MAX {
            self.problem(place, "includes are nested too deep".to_owned());
            return;
        }
        let path = self.server_root.join(name);
        let path = if self.files.is_directory(&path) { path.join("*") } else { path };
        if !path.to_string_lossy().contains(['*', '?', '[']) {
            if needed || self.files.is_there(&path) {
                self.file(&path, place, nodes, depth + 1);
            } else if let Some(parent) = path.parent() {
                self.files.watched.push(parent.to_owned());
            }
            return;
        }
        let found = self.files.glob(&path);
        if found.is_empty() && needed && name.contains(['*', '?', '[']) {
            self.problem(place, format!("no file matches {}", path.display()));
        }
        for path in found {
            if self.files.is_directory(&path) {
                let inner = [path.to_string_lossy().into_owned()];
                self.include(&inner, false, place, nodes, depth + 1);
            } else {
                self.file(&path, place, nodes, depth + 1);
            }
        }
    }

    fn use_macro(&mut self, words: &[String], place: &Place, nodes: &mut Vec<Node>, depth: usize) {
        let Some((name, values)) = words.split_first() else { return };
        let Some(Macro { parameters, mut body }) =
            self.macros.get(&name.to_ascii_lowercase()).cloned()
        else {
            self.problem(place, "uses a macro that is not defined".to_owned());
            return;
        };
        // mod_macro replaces longer names first where one begins with another.
        let mut pairs: Vec<_> = parameters.iter().zip(values).collect();
        pairs.sort_by_key(|(parameter, _)| std::cmp::Reverse(parameter.len()));
        for (parameter, value) in pairs {
            body = body.replace(parameter.as_str(), value);
        }
        self.expanded = self.expanded.saturating_add(body.len());
        if depth >= DEPTH_MAX || self.expanded > EXPANDED_MAX {
            self.problem(place, "macros are nested too deep".to_owned());
            return;
        }
        self.text(body.as_bytes(), &place.file, Some(place.line), nodes, depth + 1);
    }

    /// `${VAR}` as `ap_resolve_env`: a definition, else the environment, else left as it is.
    /// `${map:key}` is
    /// mod_rewrite's.
    fn resolved(&mut self, text: &str, place: &Place) -> String {
        let mut resolved = String::new();
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            let (before, from) = rest.split_at(at);
            resolved.push_str(before);
            let name = from[2..].split_once('}').map(|(name, _)| name);
            let name = name.filter(|name| !name.contains(':'));
            let value = name.and_then(|name| {
                self.defines.get(name).or_else(|| self.environment.get(name)).map(String::as_str)
            });
            let length = name.map_or(2, |name| name.len() + 3);
            resolved.push_str(value.unwrap_or(&from[..length]));
            if let (Some(name), None) = (name, value) {
                self.problem(place, format!("${{{name}}} is not defined"));
            }
            rest = &from[length..];
        }
        resolved + rest
    }

    fn problem(&mut self, place: &Place, text: String) {
        self.problems.push(Problem { place: place.clone(), text });
    }
}

/// A section that ended becomes part of the one around it.
fn keep(open: Open, stack: &mut [Open], nodes: &mut Vec<Node>) {
    let Open::Kept(mut node) = open else { return };
    node.inner.shrink_to_fit();
    let around = stack.iter_mut().rev().find_map(|open| match open {
        Open::Kept(node) => Some(&mut node.inner),
        Open::Passed(_) => None,
    });
    around.unwrap_or(nodes).push(node);
}
