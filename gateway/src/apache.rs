//! Apache httpd 2.4 (`apache2`, `httpd`): what its configuration declares, and what its logs say.
//!
//! Manual: <https://httpd.apache.org/docs/2.4/>. The configuration is read from the files that the
//! program was started
//! with (`-f`, `-d`, `-D`, `-C`, `-c`); what a balancer-manager changed at run time is not in them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::config::Config;
use self::load::{Given, Loader};
use crate::effective::{Effective, Start};
use crate::files::{Files, below};
use crate::kind::Kind;
use crate::place::Place;

pub mod access_lines;
pub mod access_log;
pub mod attribute;
pub mod config;
pub mod environment;
pub mod error_lines;
pub mod error_log;
pub mod hosts;
pub mod known;
pub mod load;
pub mod logs;
pub mod message;
pub mod parts;
pub mod routes;
pub mod syntax;
pub mod worker;

/// The program's name in facts.
pub const NAME: &str = "apache";

/// Main files: Debian, Red Hat, the build of httpd.apache.org and its container, Alpine and SUSE.
const USUAL: [&str; 5] = [
    "/etc/apache2/apache2.conf",
    "/etc/httpd/conf/httpd.conf",
    "/usr/local/apache2/conf/httpd.conf",
    "/etc/apache2/httpd.conf",
    "/etc/httpd/httpd.conf",
];

/// What it brings.
pub const KIND: Kind = Kind {
    name: NAME,
    programs: &["apache2", "httpd"],
    version_args: &["-v"],
    version,
    usual: &USUAL,
    follows_files: false,
    read,
    answered: |_, _| {},
    knows: logs::knows,
    lines: logs::without_configuration,
};

/// "2.4.71" of "Server version: Apache/2.4.71 (Debian)".
fn version(text: &str) -> Option<String> {
    let rest = text.split("Apache/").nth(1)?;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    (end > 0).then(|| rest[..end].to_owned())
}

/// What its words say.
#[derive(Debug, Default)]
struct Options {
    file: Option<String>,
    root: Option<String>,
    defines: BTreeSet<String>,
    /// `-C` and `-c`: directives before and behind the file.
    before: String,
    behind: String,
}

impl Options {
    fn parse(argv: &[String]) -> Self {
        let mut options = Self::default();
        let mut words = argv.iter().skip(1);
        while let Some(word) = words.next() {
            let mut letters = word.chars();
            let (Some('-'), Some(letter)) = (letters.next(), letters.next()) else { continue };
            if !"fdDCck".contains(letter) {
                continue;
            }
            let glued = letters.as_str();
            let value =
                if glued.is_empty() { words.next().cloned() } else { Some(glued.to_owned()) };
            let Some(value) = value else { break };
            match letter {
                'f' => options.file = Some(value),
                'd' => options.root = Some(value),
                'D' => drop(options.defines.insert(value)),
                'C' => options.before += &format!("{value}\n"),
                'c' => options.behind += &format!("{value}\n"),
                _ => {}
            }
        }
        options
    }
}

/// Reads the configuration that `start` leads to.
fn read(start: &Start) -> Effective {
    let options = Options::parse(&start.argv);
    let main = main_file(start, &options);
    let mut environment = start.environment.clone();
    if !environment.contains_key("APACHE_LOG_DIR") {
        let file = main.parent().unwrap_or(Path::new("/")).join("envvars");
        let text = std::fs::read_to_string(below(&start.root, &file)).unwrap_or_default();
        for (name, value) in environment::assignments(&text) {
            environment.entry(name).or_insert(value);
        }
    }
    let mut loader = Loader::new(
        Files::new(&start.root),
        Given {
            server_root: server_root(start, &options, &main),
            defines: options.defines,
            environment,
            version: start.version.clone(),
        },
    );
    let mut nodes = Vec::new();
    let words: Arc<str> = "command line".into();
    loader.text(options.before.as_bytes(), &words, Some(0), &mut nodes, 0);
    let from = Place { file: main.to_string_lossy().into(), line: 0 };
    let readable = loader.file(&main, &from, &mut nodes, 0);
    loader.text(options.behind.as_bytes(), &words, Some(0), &mut nodes, 0);
    let mut config = hosts::effective(nodes);
    effective(&mut config, &mut loader, &main, readable)
}

fn effective(config: &mut Config, loader: &mut Loader, main: &Path, readable: bool) -> Effective {
    let instance = main.to_string_lossy().into_owned();
    let problems = std::mem::take(&mut config.problems).into_iter();
    let mut endpoints = Vec::new();
    let mut told = BTreeMap::new();
    for peer in config.hosts.iter().flat_map(|host| &host.routes).flat_map(|route| &route.peers) {
        let name = (peer.declared.route.as_str(), peer.declared.endpoint.as_str());
        if told.insert(name, ()).is_none() {
            let mut declared = peer.declared.clone();
            declared.instance.clone_from(&instance);
            endpoints.push(declared);
        }
    }
    let listens = config.listens.iter().cloned().collect();
    let config = Arc::new(std::mem::take(config));
    Effective {
        logs: logs::logs(&config, &loader.server_root, &instance),
        instance,
        endpoints,
        listens,
        problems: problems.chain(loader.problems.drain(..)).collect(),
        watched: loader.watched(),
        readable,
        ..Effective::default()
    }
}

/// `-f`, else the file that the program was built with, of which the usual ones that are there are
/// tried.
fn main_file(start: &Start, options: &Options) -> PathBuf {
    if let Some(file) = &options.file {
        let root = options.root.as_deref().map_or_else(|| built_root(start), PathBuf::from);
        return start.directory.join(root).join(file);
    }
    if let Some(root) = &options.root {
        let root = start.directory.join(root);
        let names = ["apache2.conf", "conf/httpd.conf", "httpd.conf"];
        let there = names.iter().map(|name| root.join(name));
        let mut there = there.filter(|path| below(&start.root, path).exists());
        return there.next().unwrap_or_else(|| root.join("conf/httpd.conf"));
    }
    let there = |path: &&&str| below(&start.root, Path::new(path)).exists();
    USUAL.iter().find(there).copied().unwrap_or(USUAL[0]).into()
}

/// `HTTPD_ROOT` of its build.
fn built_root(start: &Start) -> PathBuf {
    let program = start.argv.first().map_or("", String::as_str);
    let there = |path: &str| below(&start.root, Path::new(path)).is_dir();
    match program.rsplit('/').next() {
        Some("httpd") if there("/etc/httpd") => "/etc/httpd".into(),
        Some("httpd") if there("/usr/local/apache2") => "/usr/local/apache2".into(),
        _ => "/etc/apache2".into(),
    }
}

fn server_root(start: &Start, options: &Options, main: &Path) -> PathBuf {
    if let Some(root) = &options.root {
        return start.directory.join(root);
    }
    let parent = main.parent().unwrap_or(Path::new("/"));
    match parent.file_name() {
        Some(name) if name == "conf" => parent.parent().unwrap_or(parent).to_owned(),
        _ if options.file.is_some() => built_root(start),
        _ => parent.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_versions() {
        let argv = [
            "httpd",
            "-d",
            "/srv/h",
            "-DFOREGROUND",
            "-D",
            "PROXY",
            "-fconf/x.conf",
            "-c",
            "Listen 81",
        ];
        let options = Options::parse(&argv.map(str::to_owned));
        assert_eq!(options.file.as_deref(), Some("conf/x.conf"));
        assert_eq!(options.root.as_deref(), Some("/srv/h"));
        assert!(options.defines.contains("FOREGROUND") && options.defines.contains("PROXY"));
        assert_eq!(options.behind, "Listen 81\n");
        assert_eq!(version("Server version: Apache/2.4.71 (Debian)\n").as_deref(), Some("2.4.71"));
        assert_eq!(version("nginx version: nginx/1.22.1"), None);
    }
}
