//! The lines of all files, words put together, in the order in which HAProxy takes them: `readcfgfile()` of
//! src/cfgparse.c.
//!
//! Files of a directory are those that end in `.cfg`, in byte order. Variables that `setenv` and its like change
//! count for the lines behind them.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::condition::{self, Asked};
use super::proxy;
use super::words::{self, Environment};
use crate::files::{Files, below};
use crate::place::{Place, Problem};

/// A line with words in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where.
    pub place: Place,
    /// At least one.
    pub words: Vec<String>,
}

impl Line {
    /// The word at `at`, "" behind the last.
    pub fn word(&self, at: usize) -> &str {
        self.words.get(at).map_or("", String::as_str)
    }

    /// The words behind the first `count`.
    pub fn behind(&self, count: usize) -> &[String] {
        self.words.get(count..).unwrap_or(&[])
    }
}

/// All lines.
#[derive(Debug, Default)]
pub struct Loaded {
    /// In their order.
    pub lines: Vec<Line>,
    /// What was not understood.
    pub problems: BTreeSet<Problem>,
    /// Files and directories that were read.
    pub watched: Vec<PathBuf>,
    /// The first file could be read.
    pub readable: bool,
    /// As the last line leaves it.
    pub environment: Environment,
}

/// Where conditions stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Branch {
    /// Its lines count.
    Taken,
    /// A later branch may count.
    Waits,
    /// None of its branches count any more.
    Over,
}

/// Reads `files`, in their order.
pub fn load(root: &Path, files: &[PathBuf], environment: Environment, version: &str) -> Loaded {
    let mut loaded = Loaded { environment, ..Loaded::default() };
    let mut reader = Files::new(root);
    for (index, path) in files.iter().enumerate() {
        let parts =
            if reader.is_directory(path) { members(&mut reader, path) } else { vec![path.clone()] };
        for part in parts {
            match reader.read(&part) {
                Ok(bytes) => {
                    loaded.readable |= index == 0;
                    text(&String::from_utf8_lossy(&bytes), &part, version, &mut loaded);
                }
                Err(error) => {
                    let place = Place { file: part.to_string_lossy().into(), line: 0 };
                    let text = format!("cannot be read: {error}");
                    loaded.problems.insert(Problem { place, text });
                }
            }
        }
    }
    loaded.watched = reader.watched;
    loaded
}

fn members(files: &mut Files, path: &Path) -> Vec<PathBuf> {
    files.watched.push(path.to_owned());
    let entries = fs::read_dir(below(&files.root, path)).into_iter().flatten().flatten();
    let names = entries.map(|entry| path.join(entry.file_name()));
    let hidden = |path: &PathBuf| path.file_name().is_some_and(|n| n.as_encoded_bytes()[0] == b'.');
    let mut found: Vec<_> =
        names.filter(|path| path.extension() == Some(OsStr::new("cfg")) && !hidden(path)).collect();
    found.sort();
    found
}

fn text(text: &str, path: &Path, version: &str, loaded: &mut Loaded) {
    let file: Arc<str> = path.to_string_lossy().into();
    let mut branches: Vec<Branch> = Vec::new();
    for (number, line) in (1_u32..).zip(text.lines()) {
        if line.trim_start().starts_with('#') {
            continue;
        }
        let split = words::split(line, &loaded.environment);
        let place = || Place { file: Arc::clone(&file), line: number };
        let Some(first) = split.words.first() else { continue };
        if first.starts_with('.') {
            let condition = split.words.get(1..).unwrap_or(&[]).join(" ");
            let asked = Asked { environment: &loaded.environment, version };
            if let Err(text) = directive(first, &condition, asked, &mut branches) {
                loaded.problems.insert(Problem { place: place(), text: text.to_owned() });
            }
            continue;
        }
        if branches.iter().any(|branch| *branch != Branch::Taken) {
            continue;
        }
        if split.open {
            let text = "a quote is not closed".to_owned();
            loaded.problems.insert(Problem { place: place(), text });
            continue;
        }
        for name in &split.unset {
            let text = format!("the environment variable {name} is not set, or not known here");
            loaded.problems.insert(Problem { place: place(), text });
        }
        set_variables(&split.words, &mut loaded.environment);
        if proxy::matters(&split.words) {
            loaded.lines.push(Line { place: place(), words: split.words });
        }
    }
}

/// `.if`, `.elif`, `.else`, `.endif`; messages tell nothing.
fn directive(
    name: &str,
    condition: &str,
    asked: Asked<'_>,
    branches: &mut Vec<Branch>,
) -> Result<(), &'static str> {
    const UNKNOWN: &str = "a condition that is not understood; its lines are left out";
    let held = condition::holds(condition, asked);
    let branch = |held| if held == Some(true) { Branch::Taken } else { Branch::Waits };
    let outside = branches.iter().all(|branch| *branch == Branch::Taken);
    match name {
        ".if" => {
            branches.push(if outside { branch(held) } else { Branch::Over });
            held.map(drop).ok_or(UNKNOWN)
        }
        ".elif" | ".else" => {
            let last = branches.last_mut().ok_or("there is no .if before it")?;
            let held = if name == ".else" { Some(true) } else { held };
            *last = if *last == Branch::Waits { branch(held) } else { Branch::Over };
            held.map(drop).ok_or(UNKNOWN)
        }
        ".endif" => branches.pop().map(drop).ok_or("there is no .if before it"),
        _ => Ok(()),
    }
}

/// `setenv`, `presetenv`, `unsetenv`, `resetenv` of section global.
fn set_variables(words: &[String], environment: &mut Environment) {
    match words {
        [verb, name, value] if verb == "setenv" => {
            environment.insert(name.clone(), value.clone());
        }
        [verb, name, value] if verb == "presetenv" => {
            environment.entry(name.clone()).or_insert_with(|| value.clone());
        }
        [verb, names @ ..] if verb == "unsetenv" => {
            names.iter().for_each(|name| drop(environment.remove(name)));
        }
        [verb, names @ ..] if verb == "resetenv" => {
            environment.retain(|name, _| names.contains(name));
        }
        _ => {}
    }
}
