//! Configurations as people publish them, and what nginx would send where.
//!
//! Each file of `nginx_config/` is a case: a configuration (further files after lines `# file: NAME`), and behind
//! `# ---` what is declared: route, endpoint, protocol, place, and what differs from the defaults. Written anew by
//! `UPDATE_EXPECT=1 cargo test -p why502-gateway --test nginx_config`; read the difference.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use why502_gateway::files::below;
use why502_gateway::nginx::version::Build;
use why502_gateway::nginx::{Effective, Options, declared, load, paths, read};
use why502_proto::v1::{EndpointDeclared, Protocol};

const BEHIND: &str = "# ---\n";

/// Writes the files of a case below a directory; the main one is /etc/nginx/nginx.conf.
fn lay_out(root: &Path, text: &str) {
    let mut name = "nginx.conf".to_owned();
    let mut body = String::new();
    let mut files = Vec::new();
    for line in text.split_inclusive('\n') {
        if let Some(next) = line.strip_prefix("# file: ") {
            files.push((
                std::mem::replace(&mut name, next.trim().to_owned()),
                std::mem::take(&mut body),
            ));
        } else {
            body.push_str(line);
        }
    }
    files.push((name, body));
    for (name, body) in files {
        let path = below(root, &Path::new("/etc/nginx").join(name));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, body).unwrap();
    }
}

fn shown(effective: &Effective) -> String {
    let mut out = String::new();
    for fact in declared(&effective.config, "conf").into_values() {
        let protocol = Protocol::try_from(fact.protocol).unwrap().as_str_name();
        let protocol = protocol.trim_start_matches("PROTOCOL_").to_ascii_lowercase();
        let place = format!("{}:{}", fact.file.trim_start_matches("/etc/nginx/"), fact.line);
        writeln!(out, "# {} -> {} {protocol} {place}{}", fact.route, fact.endpoint, extra(&fact))
            .unwrap();
    }
    for problem in &effective.problems {
        let file = problem.place.file.trim_start_matches("/etc/nginx/");
        writeln!(out, "# ! {file}:{} {}", problem.place.line, problem.text).unwrap();
    }
    out
}

fn extra(fact: &EndpointDeclared) -> String {
    let mut out = String::new();
    let mut say = |name: &str, value: u64, default: u64| {
        if value != default {
            write!(out, " {name}={value}").unwrap();
        }
    };
    say("peers", fact.peers.into(), 1);
    say("connect", fact.connect_timeout_ms, 60_000);
    say("read", fact.read_timeout_ms, 60_000);
    say("send", fact.send_timeout_ms, 60_000);
    say("keepalive", fact.keepalive_ms.unwrap_or(0), 0);
    say("down", fact.down.into(), 0);
    say("backup", fact.backup.into(), 0);
    say("max_fails", fact.max_fails.into(), 1);
    say("fail_timeout", fact.fail_timeout_ms, 10_000);
    say("max_conns", fact.max_conns.into(), 0);
    if fact.addresses.is_empty() {
        out.push_str(" unresolved");
    }
    out
}

fn cases() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nginx_config");
    let mut cases: Vec<_> =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    cases.sort();
    cases
}

#[test]
fn every_case_declares_what_it_says() {
    let cases = cases();
    assert!(cases.len() >= 25, "only {} cases", cases.len());
    let mut wrong = Vec::new();
    for case in cases {
        let text = fs::read_to_string(&case).unwrap();
        let (config, expected) = text.split_once(BEHIND).unwrap_or((&text, ""));
        let root = tempfile::tempdir().unwrap();
        lay_out(root.path(), config);
        // A case says in its first line for which version it is.
        let version =
            config.lines().next().unwrap().split_once("nginx ").map_or("1.22.1", |(_, v)| v);
        let effective = read(
            root.path(),
            &paths(&Build::default(), &Options::default(), None),
            "",
            version,
            "web-1",
        );
        let found = shown(&effective);
        if found != expected {
            if std::env::var_os("UPDATE_EXPECT").is_some() {
                fs::write(&case, format!("{config}{BEHIND}{found}")).unwrap();
            }
            wrong.push(format!("{}:\n{found}", case.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Files that `nginx -T` reads, and only those, are read.
#[test]
fn includes_are_those_of_nginx_itself() {
    let mut compared = 0;
    for case in cases() {
        let text = fs::read_to_string(&case).unwrap();
        let config = text.split_once(BEHIND).map_or(text.as_str(), |(config, _)| config);
        let root = tempfile::Builder::new().prefix("gateway-nginx-").tempdir().unwrap();
        lay_out(root.path(), config);
        let directory = root.path().join("etc/nginx");
        let main = directory.join("nginx.conf");
        let output = Command::new("/usr/sbin/nginx")
            .args([
                "-T",
                "-e",
                "stderr",
                "-p",
                directory.to_str().unwrap(),
                "-c",
                main.to_str().unwrap(),
            ])
            .output()
            .unwrap();
        if !output.status.success() {
            continue;
        }
        compared += 1;
        let dump = String::from_utf8_lossy(&output.stdout);
        let theirs: BTreeSet<&str> = dump
            .lines()
            .filter_map(|line| line.strip_prefix("# configuration file "))
            .map(|line| line.trim_end_matches(':'))
            .collect();
        let loaded = load::load(Path::new("/"), &main, "");
        let ours: BTreeSet<String> = loaded
            .watched
            .iter()
            .filter(|path| path.is_file())
            .map(|path| path.to_string_lossy().into_owned())
            .collect();
        assert!(ours.iter().map(String::as_str).eq(theirs.iter().copied()), "{ours:?} {theirs:?}");
        let upstreams =
            dump.lines().filter(|line| line.trim_start().starts_with("upstream ")).count();
        assert!(upstreams == 0 || !loaded.directives.is_empty());
    }
    assert!(compared >= 10, "nginx took only {compared} of the cases");
}
