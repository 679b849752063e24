//! Traefik: what its static configuration and the files of its file provider declare, what `/api/rawdata` says of all
//! other providers, and what its logs say.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use self::dynamic::{Dynamic, Transport};
use self::lines::{Shared, TraefikLines};
use self::model::Model;
use crate::document::{Document, Node, Syntax};
use crate::effective::{ASK_EVERY, Admin, Effective, Log, Speech, Start, Target};
use crate::files::{Files, below};
use crate::kind::Kind;
use crate::lines::Lines;
use crate::place::{Place, Problem};

mod dynamic;
mod entry;
mod error;
mod lines;
mod model;
mod rule;
mod settings;
mod template;

/// The program's name in facts.
pub const NAME: &str = "traefik";

/// Directories below that of the file provider.
const DEPTH_MAX: usize = 16;

/// What it brings.
pub const KIND: Kind = Kind {
    name: NAME,
    programs: &["traefik"],
    version_args: &["version"],
    version,
    usual: settings::USUAL,
    follows_files: true,
    read,
    answered,
    knows: lines::knows,
    lines: usual_lines,
};

fn usual_lines() -> Box<dyn Lines> {
    Box::new(TraefikLines::default())
}

/// Of "Version:      3.7.15".
fn version(text: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.trim().strip_prefix("Version:"))?;
    Some(line.trim().trim_start_matches('v').to_owned())
}

fn read(start: &Start) -> Effective {
    let mut files = Files::new(&start.root);
    let mut settings = settings::read(start, &mut files);
    let mut effective = Effective {
        instance: settings.instance.clone(),
        readable: settings.readable,
        problems: std::mem::take(&mut settings.document.problems).into_iter().collect(),
        ..Effective::default()
    };
    let root = &settings.document.root;
    let mut dynamic = Dynamic::default();
    static_transports(root, &mut dynamic);
    for document in provided(root, start, &mut files, &mut effective) {
        dynamic.add_file(&document);
    }
    let points = entry_points(root);
    effective.listens = points.values().map(|point| point.address.clone()).collect();
    effective.admin = admin(root, &points);
    logs(&mut effective, root, &start.directory, dynamic, points);
    effective.watched = files.watched;
    effective
}

/// An entry point.
#[derive(Debug)]
struct Point {
    address: String,
    port: u16,
    /// Routers that name none have it.
    default: bool,
}

fn entry_points(root: &Node) -> BTreeMap<String, Point> {
    let mut points = BTreeMap::new();
    let written = root.map("entryPoints");
    let chosen = written.iter().any(|(_, node)| node.is_true("asDefault"));
    for (name, node) in written {
        let address = node.text("address");
        let (address, protocol) = address.split_once('/').unwrap_or((address, "tcp"));
        if protocol == "tcp" {
            let default = if chosen { node.is_true("asDefault") } else { &**name != NAME };
            points.insert(name.to_string(), point(address, default));
        }
    }
    if written.is_empty() {
        points.insert("http".to_owned(), point(":80", true));
    }
    let inside = root.is_true("api.insecure") || root.get("ping").is_some();
    if inside && !points.contains_key(NAME) {
        points.insert(NAME.to_owned(), point(":8080", false));
    }
    points
}

fn point(address: &str, default: bool) -> Point {
    let (host, port) = address.rsplit_once(':').unwrap_or((address, "0"));
    let host = if host.is_empty() { "0.0.0.0" } else { host };
    Point { address: format!("{host}:{port}"), port: port.parse().unwrap_or(0), default }
}

/// `/api/rawdata` is on the entry point "traefik" where `api.insecure` is set. Behind a router it mostly asks for a
/// password, and is left alone.
fn admin(root: &Node, points: &BTreeMap<String, Point>) -> Option<Admin> {
    let point = points.get(NAME).filter(|_| root.is_true("api.insecure"))?;
    let base = root.text("api.basePath").trim_end_matches('/');
    Some(Admin {
        speech: Speech::Http,
        address: point.address.clone(),
        questions: vec![format!("{base}/api/rawdata")],
        every: ASK_EVERY,
    })
}

fn static_transports(root: &Node, dynamic: &mut Dynamic) {
    for (tcp, name) in [(false, "serversTransport"), (true, "tcpServersTransport")] {
        if let Some(node) = root.get(name) {
            dynamic.transports.insert((tcp, "default@internal".to_owned()), Transport::of(node));
        }
    }
}

/// Files of the file provider.
fn provided(
    root: &Node,
    start: &Start,
    files: &mut Files,
    effective: &mut Effective,
) -> Vec<Document> {
    let Some(provider) = root.at("providers.file") else { return Vec::new() };
    let mut paths = Vec::new();
    let named = provider.text("directory");
    if named.is_empty() {
        let file = provider.text("filename");
        paths.extend((!file.is_empty()).then(|| start.directory.join(file)));
    } else {
        directory(&start.root, &start.directory.join(named), files, DEPTH_MAX, &mut paths);
    }
    let mut documents = Vec::new();
    for path in paths {
        let name = path.to_string_lossy().into_owned();
        let file: Arc<str> = name.as_str().into();
        let problem = |line, text| Problem { place: Place { file: Arc::clone(&file), line }, text };
        match files.read(&path) {
            Ok(bytes) => {
                let syntax = Syntax::of(&name);
                let text = String::from_utf8_lossy(&bytes);
                let (text, left_out) = template::expand(&text, syntax, &start.environment);
                let mut document = Document::parse(&text, &name, syntax);
                effective.problems.extend(std::mem::take(&mut document.problems));
                effective.problems.extend(left_out.into_iter().map(|(l, t)| problem(l, t)));
                documents.push(document);
            }
            Err(error) => {
                effective.problems.insert(problem(1, format!("cannot be read: {error}")));
            }
        }
    }
    documents
}

/// Files with configurations below a directory, in their order.
fn directory(root: &Path, path: &Path, files: &mut Files, depth: usize, found: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(below(root, path)) else { return };
    files.watched.push(path.to_owned());
    let mut names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
    names.sort();
    for name in names {
        let inner = path.join(&name);
        let end = inner.extension().and_then(|end| end.to_str()).unwrap_or("");
        if ["toml", "yaml", "yml"].contains(&end) {
            found.push(inner);
        } else if depth > 0 && below(root, &inner).is_dir() {
            directory(root, &inner, files, depth - 1, found);
        }
    }
}

/// What is kept for the answer of the admin interface.
#[derive(Debug)]
struct Kept {
    files: Dynamic,
    points: BTreeMap<String, Point>,
    /// There is an access log that has every request.
    whole: bool,
    shared: Shared,
}

impl Kept {
    /// Takes what is declared.
    fn take(&self, effective: &mut Effective, dynamic: Dynamic) {
        let ports =
            self.points.iter().map(|(name, point)| (name.clone(), (point.port, point.default)));
        let model = Model::new(&effective.instance, dynamic, &ports.collect(), self.whole);
        let (endpoints, problems) = model.declared();
        effective.endpoints = endpoints;
        effective.problems.extend(problems);
        effective.disabled = model.disabled();
        *self.shared.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(model);
    }
}

fn logs(
    effective: &mut Effective,
    root: &Node,
    directory: &Path,
    files: Dynamic,
    points: BTreeMap<String, Point>,
) {
    let access = root.get("accessLog").filter(|node| node.scalar() != Some("false"));
    let whole =
        access.is_some_and(|node| node.get("filters").is_none_or(|f| f.entries().is_empty()));
    let kept = Kept { files, points, whole, shared: Shared::default() };
    kept.take(effective, kept.files.clone());
    let mut targets = vec![target(root.text("log.filePath"), directory)];
    if let Some(access) = access {
        let target = target(access.text("filePath"), directory);
        if !targets.contains(&target) {
            targets.push(target);
        }
    } else {
        effective.logs.push(Log {
            target: Target::Elsewhere {
                reason: "there is no access log".to_owned(),
                grant: "add `accessLog: {}` to the static configuration".to_owned(),
            },
            lines: usual_lines(),
        });
    }
    let recent = Arc::default();
    effective.logs.extend(targets.into_iter().map(|target| {
        let lines = TraefikLines::new(Arc::clone(&kept.shared), Arc::clone(&recent));
        Log { target, lines: Box::new(lines) }
    }));
    effective.kept = Some(Arc::new(kept));
}

fn target(path: &str, directory: &Path) -> Target {
    match path {
        "" | "/dev/stdout" | "/dev/stderr" | "/proc/self/fd/1" | "/proc/self/fd/2" => Target::Stdio,
        _ => Target::File(directory.join(path).components().collect()),
    }
}

/// Takes what it runs with; places and transports are those of the files, which the answer does not have.
fn answered(effective: &mut Effective, answers: &[String]) {
    let kept = effective.kept.clone().and_then(|kept| kept.downcast::<Kept>().ok());
    let (Some(kept), [raw]) = (kept, answers) else { return };
    let raw = Document::parse(raw, "/api/rawdata", Syntax::Json);
    if raw.root.get("routers").is_none() || !raw.problems.is_empty() {
        return;
    }
    let mut dynamic = Dynamic { transports: kept.files.transports.clone(), ..Dynamic::default() };
    dynamic.add_raw(&raw);
    dynamic.place_as(&kept.files);
    let problems = effective.problems.clone();
    kept.take(effective, dynamic);
    effective.problems = problems;
}
