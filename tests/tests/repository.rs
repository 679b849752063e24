//! Properties of the repository that a program can check.

#![expect(clippy::unwrap_used, reason = "a test that cannot look has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of a source file without its tests, and of a function.
const FILE_LINES_MAX: usize = 400;
const FUNCTION_LINES_MAX: usize = 70;
const COLUMNS_MAX: usize = 100;

/// Files that are longer. The list may only shrink.
const LONG_FILES: &[&str] = &["agent/src/source/gateway.rs", "gateway/src/nginx/config.rs"];
/// Functions that are longer, as "file function". The list may only shrink.
const LONG_FUNCTIONS: &[&str] = &["collector/src/text/sample.rs oom_killed"];
/// Files with a line that is too long. The list may only shrink.
const LONG_LINES: &[&str] =
    &["agent/src/source/gateway/logs.rs", "agent/src/source/gateway/nginx/instance.rs"];
/// Causes that no throw-away host can have: they would take the whole machine's memory.
const NO_SCENARIO: &[&str] = &["process.oom_killed.global", "process.oom_killed.oomd"];
/// Causes that have no scenario yet. The list may only shrink.
const NO_SCENARIO_YET: &[&str] = &[
    "conntrack.table_full",
    "disk_full.gateway_temp",
    "dns.no_resolver",
    "dns.servfail_refused",
    "dns.timeout",
    "fd.exhausted.gateway",
    "fd.exhausted.system",
    "link.down",
    "neighbor.unreachable",
    "tls.cert_not_yet_valid",
    "tls.cert_untrusted",
    "tls.client_cert_required",
    "tls.handshake_timeout",
    "tls.name_mismatch",
    "tls.sni_required",
    "tls.version_or_cipher",
    "keepalive.race",
];

/// Crates of the workspace, and which of the others they may use.
const ARROWS: &[(&str, &[&str])] = &[
    ("why502-proto", &[]),
    ("why502-explain", &["why502-proto"]),
    ("why502-gateway", &["why502-proto"]),
    ("why502-agent", &["why502-proto", "why502-explain", "why502-gateway"]),
    ("why502-collector", &["why502-proto", "why502-explain", "why502-gateway"]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A source file: its path below the root, and its text.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The text without the tests at its end; what only tests use is not part of the program.
    fn program(&self) -> &str {
        if self.is_test() {
            return "";
        }
        let mut at = 0;
        for line in self.text.split_inclusive('\n') {
            if line.starts_with("#[cfg(test)]") {
                return &self.text[..at];
            }
            at += line.len();
        }
        &self.text
    }

    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs")
            || self.path.contains("/tests/") && !self.is_of("tests/src")
    }

    fn is_of(&self, folder: &str) -> bool {
        self.path.starts_with(folder)
    }

    /// Code lines: comments say what they like.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.program().lines().enumerate();
        lines
            .map(|(at, line)| (at + 1, line))
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

/// All files below the root that git would know, with one of these endings.
fn files(endings: &[&str]) -> Vec<Source> {
    let output = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).unwrap();
    let wanted = |name: &&str| endings.iter().any(|ending| name.ends_with(ending));
    let mut files = Vec::new();
    for name in names.lines().filter(wanted) {
        // What is removed but not yet committed is listed and not there.
        if let Ok(text) = fs::read_to_string(root().join(name)) {
            files.push(Source { path: name.to_owned(), text });
        }
    }
    files
}

fn sources() -> Vec<Source> {
    let mut sources = files(&[".rs"]);
    sources.retain(|source| !source.path.starts_with("proto/src/gen/"));
    assert!(sources.len() > 20, "the sources were not found");
    sources
}

fn assert_none(what: &str, found: &[String]) {
    assert!(found.is_empty(), "{what}:\n  {}", found.join("\n  "));
}

/// A list of exceptions that may only shrink: nothing is long that is not on it, and nothing is on it that is not long.
/// `found` has the entry of each, and what is said of it.
fn ratchet(what: &str, found: &[(String, String)], listed: &[&str]) {
    let fresh: Vec<_> = found
        .iter()
        .filter(|(entry, _)| !listed.contains(&entry.as_str()))
        .map(|(_, said)| said.clone())
        .collect();
    assert_none(what, &fresh);
    let is_found = |listed: &str| found.iter().any(|(entry, _)| entry == listed);
    let mended: Vec<_> =
        listed.iter().filter(|entry| !is_found(entry)).map(|entry| (*entry).to_owned()).collect();
    assert_none("well done, take these off the list", &mended);
}

fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn crates_point_only_where_they_may() {
    let metadata = cargo(&["metadata", "--offline", "--no-deps", "--format-version", "1"]);
    let metadata: serde_json::Value = serde_json::from_str(&metadata).unwrap();
    for (name, may) in ARROWS {
        let packages = metadata["packages"].as_array().unwrap();
        let package = packages.iter().find(|package| package["name"] == *name).unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let used = dependency["name"].as_str().unwrap();
            let fine = !used.starts_with("why502-")
                || may.contains(&used)
                || !dependency["kind"].is_null();
            assert!(fine, "{name} may not use {used}");
        }
    }
}

#[test]
fn explain_links_nothing_that_does_io() {
    let tree = cargo(&[
        "tree",
        "--offline",
        "--edges",
        "normal",
        "--prefix",
        "none",
        "--package",
        "why502-explain",
    ]);
    assert!(tree.starts_with("why502-explain "), "{tree}");
    for banned in ["tokio", "tonic", "rusqlite", "rand", "mio", "hyper", "zbus"] {
        let banned = format!("{banned} v");
        let linked = tree.lines().any(|line| line.starts_with(&banned));
        assert!(!linked, "explain links {banned}");
    }
}

#[test]
fn explain_neither_reads_nor_asks_the_time() {
    let mut found = Vec::new();
    for source in sources().iter().filter(|source| source.is_of("explain/src/")) {
        for (line, text) in source.code() {
            for banned in [
                "std::fs",
                "std::env",
                "std::process",
                "TcpStream",
                "UdpSocket",
                "SystemTime",
                "Instant::now",
            ] {
                if text.contains(banned) {
                    found.push(format!("{}:{line}: {banned}", source.path));
                }
            }
        }
    }
    assert_none("explain is a function of its snapshot", &found);
}

/// Files below `folder` whose program names `word`.
fn naming(folder: &str, word: &str) -> Vec<String> {
    let of_folder = |source: &Source| {
        source.is_of(folder) && source.code().any(|(_, line)| names_word(line, word))
    };
    sources().into_iter().filter(of_folder).map(|source| source.path).collect()
}

fn names_word(line: &str, word: &str) -> bool {
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        !line[..at].ends_with(is_name) && !line[at + word.len()..].starts_with(is_name)
    })
}

#[test]
fn one_file_of_each_program_names_tonic() {
    for folder in ["agent/src/", "collector/src/"] {
        let naming = naming(folder, "tonic");
        assert!(naming.len() <= 1, "tonic is named in {naming:?}");
    }
    assert_none("tonic is no business of", &naming("explain/src/", "tonic"));
}

#[test]
fn only_the_store_names_the_database() {
    let mut naming = naming("", "rusqlite");
    naming.retain(|path| {
        !path.starts_with("collector/src/store") && !path.starts_with("tests/tests/")
    });
    assert_none("rusqlite is named in", &naming);
}

#[test]
fn only_sources_name_proc() {
    let mut naming = naming("agent/src/", "proc");
    naming.retain(|path| !path.starts_with("agent/src/source"));
    let in_text = |path: &String| {
        let text = fs::read_to_string(root().join(path)).unwrap();
        let source = Source { path: path.clone(), text };
        source.code().any(|(_, line)| line.contains("\"/proc"))
    };
    naming.retain(in_text);
    assert_none("/proc is named in", &naming);
}

#[test]
fn unsafe_code_has_one_place() {
    let mut naming = naming("", "unsafe_code");
    naming.retain(|path| path != "agent/src/hostfd.rs" && path != "tests/tests/repository.rs");
    assert_none("unsafe code is allowed in", &naming);
}

#[test]
fn lints_are_expected_with_a_reason_and_never_allowed() {
    let mut found = Vec::new();
    for source in sources() {
        let lines: Vec<_> = source.text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let line = line.trim_start();
            if line.starts_with("#[allow") || line.starts_with("#![allow") {
                found.push(format!("{}:{}: allow", source.path, at + 1));
            }
            if line.starts_with("#[expect") || line.starts_with("#![expect") {
                let whole = lines[at..].iter().take(8).map(|line| line.trim()).collect::<String>();
                if !whole.split(']').next().unwrap_or("").contains("reason") {
                    found.push(format!("{}:{}: no reason", source.path, at + 1));
                }
            }
        }
    }
    assert_none("lints are switched off", &found);
}

#[test]
fn files_hold_one_idea() {
    let mut long = Vec::new();
    for source in sources() {
        let lines = source.program().lines().count();
        if lines > FILE_LINES_MAX {
            let said = format!("{} has {lines} lines", source.path);
            long.push((source.path, said));
        }
    }
    let what = format!("files are at most {FILE_LINES_MAX} lines without their tests");
    ratchet(&what, &long, LONG_FILES);
}

#[test]
fn lines_are_short() {
    let mut long = Vec::new();
    for source in sources() {
        for (at, line) in source.text.lines().enumerate() {
            // A string of recorded input cannot be broken.
            if line.chars().count() > COLUMNS_MAX && !line.contains('"') && !source.is_recorded(at)
            {
                long.push((source.path.clone(), format!("{}:{}", source.path, at + 1)));
            }
        }
    }
    ratchet(&format!("lines are at most {COLUMNS_MAX} columns"), &long, LONG_LINES);
}

impl Source {
    /// Inside of the tests, where input stands as it was recorded, and in prose, which rustfmt leaves alone up to 120.
    fn is_recorded(&self, at: usize) -> bool {
        let line = self.text.lines().nth(at).unwrap_or("");
        let prose = line.trim_start().starts_with("//") && line.chars().count() <= 120;
        prose || at >= self.program().lines().count()
    }
}

#[test]
fn functions_can_be_held_in_the_head() {
    let mut long = Vec::new();
    for source in sources() {
        let mut open: Option<(usize, String, usize)> = None;
        for (at, line) in source.program().lines().enumerate() {
            let indent = line.len() - line.trim_start().len();
            if let Some((begun, name, depth)) = &open {
                if indent == *depth && line.trim_end() == format!("{}}}", " ".repeat(indent)) {
                    let lines = at - begun + 1;
                    let entry = format!("{} {name}", source.path);
                    if lines > FUNCTION_LINES_MAX {
                        let said = format!("{entry}: {lines} lines");
                        long.push((entry, said));
                    }
                    open = None;
                }
            } else if let Some(name) = function_name(line)
                && !line.trim_end().ends_with(['}', ';'])
            {
                open = Some((at, name, indent));
            }
        }
    }
    ratchet(&format!("functions are at most {FUNCTION_LINES_MAX} lines"), &long, LONG_FUNCTIONS);
}

/// The name in "pub(super) async fn name(".
fn function_name(line: &str) -> Option<String> {
    let line = line.trim_start();
    let (before, rest) = line.split_once("fn ")?;
    let modifiers = before.split_whitespace().all(|word| {
        word.starts_with("pub") || ["async", "const", "extern", "unsafe"].contains(&word)
    });
    let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (modifiers && !name.is_empty()).then_some(name)
}

#[test]
fn tests_wait_for_events_and_not_for_time() {
    let mut found = Vec::new();
    for source in sources() {
        if source.path == "tests/tests/repository.rs" {
            continue;
        }
        let tests = if source.is_test() { "" } else { source.program() };
        for (at, line) in source.text[tests.len()..].lines().enumerate() {
            if line.contains("thread::sleep(") {
                found.push(format!("{}:{} of its tests", source.path, at + 1));
            }
        }
    }
    assert_none("tests sleep", &found);
}

#[test]
fn architecture_and_changelog_are_kept() {
    let architecture = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    assert!(architecture.lines().count() <= 200, "ARCHITECTURE.md is longer than 200 lines");
    let changelog = fs::read_to_string(root().join("CHANGELOG.md")).unwrap();
    assert!(changelog.contains("Unreleased"), "CHANGELOG.md has no part for what is unreleased");
}

#[test]
fn no_path_of_a_developers_machine() {
    // Put together here, so that this file does not name them.
    let banned = ["/work", "/home", "/Users"].map(|start| format!("{start}/"));
    let mut found = Vec::new();
    let mut all =
        files(&[".rs", ".toml", ".sh", ".md", ".service", ".py", ".yml", "/setup", "/break"]);
    all.retain(|file| !file.path.starts_with("proto/src/gen/"));
    for file in all {
        // Recorded input keeps the paths that it had.
        for (at, line) in file.program().lines().enumerate() {
            if line.contains(&banned[0]) {
                found.push(format!("{}:{}: {}", file.path, at + 1, line.trim()));
            }
        }
    }
    assert_none("paths of one machine", &found);
}

#[test]
fn every_cause_has_a_scenario_and_a_look_alike() {
    let bench = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench");
    let mut positive = BTreeSet::new();
    let (mut controls, mut unknown) = (0, 0);
    for (name, scenario) in why502_tests::scenario::find(&[bench]).unwrap() {
        let scenario = scenario.unwrap_or_else(|error| panic!("{name}: {error}"));
        let text = fs::read_to_string(scenario.dir.join("scenario.toml")).unwrap();
        assert!(text.starts_with("# "), "{name}: says in a comment why the answer is right");
        controls += usize::from(scenario.is_control());
        unknown += usize::from(scenario.is_unknowable());
        positive.insert(scenario.expect.root_cause);
    }
    let catalogue = why502_tests::catalogue();
    let lacks = |id: &&&str| {
        let excepted = NO_SCENARIO.contains(*id) || NO_SCENARIO_YET.contains(*id);
        !positive.contains(**id) && !excepted
    };
    let without: Vec<_> = catalogue.iter().filter(lacks).map(|id| (*id).to_owned()).collect();
    assert_none("causes without a scenario", &without);
    assert!(controls + unknown >= 8, "{controls} controls and {unknown} unknowable");
}
