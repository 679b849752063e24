//! The static configuration: a file, or the command line, or the environment, whichever is there first
//! (doc.traefik.io, "Configuration Overview").

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::document::{Document, Node, Syntax, Value, same_name};
use crate::effective::Start;
use crate::files::{Files, below};

/// Where it looks for a file that nobody named.
pub(super) const USUAL: &[&str] =
    &["/etc/traefik/traefik.toml", "/etc/traefik/traefik.yaml", "/etc/traefik/traefik.yml"];

/// What it was started with.
pub(super) struct Settings {
    pub(super) document: Document,
    /// Name of the instance.
    pub(super) instance: String,
    /// Its file could be read, or it needs none.
    pub(super) readable: bool,
}

/// Finds and reads it. The error of a file that cannot be read becomes a problem of the document.
pub(super) fn read(start: &Start, files: &mut Files) -> Settings {
    let flags = flags(&start.argv);
    let named = flags.iter().find(|(name, _)| same_name(name, "configFile"));
    let path = named.map(|(_, value)| start.directory.join(value)).or_else(|| usual(start));
    if let Some(path) = path {
        return of_file(&path, files);
    }
    if !flags.is_empty() {
        return of_pairs(flags, "command line");
    }
    let environment = start.environment.iter().filter_map(|(name, value)| {
        let rest = name.strip_prefix("TRAEFIK_")?;
        Some((rest.replace('_', "."), value.clone()))
    });
    of_pairs(environment.collect(), "environment")
}

fn usual(start: &Start) -> Option<PathBuf> {
    let home = start.environment.get("XDG_CONFIG_HOME").cloned();
    let home = home.or_else(|| Some(format!("{}/.config", start.environment.get("HOME")?)));
    let in_home = home.into_iter().flat_map(|home| {
        ["toml", "yaml", "yml"].map(|end| PathBuf::from(format!("{home}/traefik.{end}")))
    });
    let here = ["toml", "yaml", "yml"].map(|end| start.directory.join(format!("traefik.{end}")));
    let all = USUAL.iter().map(PathBuf::from).chain(in_home).chain(here);
    all.into_iter().find(|path| below(&start.root, path).is_file())
}

fn of_file(path: &Path, files: &mut Files) -> Settings {
    let path: PathBuf = path.components().collect();
    let name = path.to_string_lossy().into_owned();
    let (document, readable) = match files.read(&path) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            (Document::parse(&text, &name, Syntax::of(&name)), true)
        }
        Err(error) => {
            let mut document = Document::parse("", &name, Syntax::Yaml);
            let place = document.place(&document.root);
            let text = format!("cannot be read: {error}");
            document.problems.push(crate::place::Problem { place, text });
            (document, false)
        }
    };
    Settings { document, instance: name, readable }
}

fn of_pairs(pairs: Vec<(String, String)>, from: &str) -> Settings {
    let mut root = Node { value: Value::Map(Vec::new()), line: 1 };
    for (line, (name, value)) in (1_u32..).zip(&pairs) {
        insert(&mut root, name.split('.'), value, line);
    }
    let entry = root.at("entryPoints").and_then(|points| points.entries().first());
    let port = entry.map_or("", |(_, point)| point.text("address"));
    let instance = format!("{from} {port}").trim_end().to_owned();
    Settings {
        document: Document { file: from.into(), root, problems: Vec::new() },
        instance,
        readable: true,
    }
}

/// Sets `a.b.c`, and makes what is on the way. A list is written with commas, or as `a[0].b`.
fn insert<'a>(node: &mut Node, mut path: impl Iterator<Item = &'a str>, value: &str, line: u32) {
    let Some(name) = path.next() else {
        if matches!(node.value, Value::Null) || node.entries().is_empty() {
            node.value = Value::Scalar(value.into());
        }
        node.line = line;
        return;
    };
    if !matches!(node.value, Value::Map(_)) {
        node.value = Value::Map(Vec::new());
    }
    let Value::Map(entries) = &mut node.value else { return };
    let at = entries.iter().position(|(known, _)| same_name(known, name)).unwrap_or_else(|| {
        entries.push((Arc::from(name), Node { value: Value::Null, line }));
        entries.len() - 1
    });
    insert(&mut entries[at].1, path, value, line);
}

/// `--name=value`, `--name value` and `--name`, which is true.
fn flags(argv: &[String]) -> Vec<(String, String)> {
    let mut flags = Vec::new();
    let mut words = argv.iter().skip(1).peekable();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
            continue;
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => {
                let next = words.next_if(|next| !next.starts_with('-'));
                (flag, next.cloned().unwrap_or_else(|| "true".to_owned()))
            }
        };
        flags.push((name.to_owned(), value));
    }
    flags
}
