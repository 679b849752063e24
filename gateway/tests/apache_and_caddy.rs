//! Configurations as people write them, and lines as httpd and Caddy wrote them, with what is read from them.
//!
//! Each file of `corpus/KIND/*.conf` is a case: a configuration (further files after lines `# file: NAME`), and behind
//! `# ---` what is declared: route, endpoint, protocol, place, and what differs from the defaults. Each file of
//! `corpus/KIND/*.log` has lines of a log, `### ` and what the client saw, and behind `# ---` what they tell; it is read
//! with the configuration of the same name. Written anew by `UPDATE_EXPECT=1`; read the difference.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use why502_gateway::effective::{Effective, Start, Target};
use why502_gateway::files::below;
use why502_gateway::kind::{KINDS, Kind};
use why502_gateway::lines::{Told, What};
use why502_proto::v1::{EndpointDeclared, RequestFailed};

const BEHIND: &str = "# ---\n";

fn kind(name: &str) -> &'static Kind {
    KINDS.iter().find(|kind| kind.name == name).unwrap()
}

fn lay_out(kind: &Kind, root: &Path, text: &str) {
    let main = Path::new(kind.usual[0]);
    let mut files: Vec<(PathBuf, String)> = vec![(main.to_owned(), String::new())];
    for line in text.split_inclusive('\n') {
        match line.strip_prefix("# file: ") {
            Some(name) => {
                files.push((main.parent().unwrap().join(name.trim()), String::new()));
            }
            None => files.last_mut().unwrap().1.push_str(line),
        }
    }
    for (name, body) in files {
        let path = below(root, &name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, body).unwrap();
    }
}

fn read(kind: &Kind, root: &Path, text: &str) -> Effective {
    lay_out(kind, root, text);
    // `# argv: -D X`, `# env: NAME=value`
    let words = |key: &str| {
        let lines = text.lines().filter_map(move |line| line.strip_prefix(key));
        lines.flat_map(|line| line.split_whitespace().map(str::to_owned)).collect::<Vec<_>>()
    };
    let mut argv = vec![kind.programs[0].to_owned()];
    argv.extend(words("# argv: "));
    let pairs = words("# env: ");
    let pairs = pairs.iter().filter_map(|pair| pair.split_once('='));
    (kind.read)(&Start {
        argv,
        directory: "/".into(),
        root: root.to_owned(),
        environment: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        ..Start::default()
    })
}

fn shown(kind: &Kind, effective: &Effective) -> String {
    let directory = format!("{}/", Path::new(kind.usual[0]).parent().unwrap().display());
    let mut out = String::new();
    for fact in &effective.endpoints {
        let protocol = fact.protocol().as_str_name();
        let protocol = protocol.trim_start_matches("PROTOCOL_").to_ascii_lowercase();
        let place = format!("{}:{}", fact.file.trim_start_matches(&directory), fact.line);
        writeln!(out, "# {} -> {} {protocol} {place}{}", fact.route, fact.endpoint, extra(fact))
            .unwrap();
    }
    for log in &effective.logs {
        match &log.target {
            Target::File(path) => writeln!(out, "# log {}", path.display()).unwrap(),
            other => writeln!(out, "# log {other:?}").unwrap(),
        }
    }
    for problem in &effective.problems {
        let file = problem.place.file.trim_start_matches(&directory);
        writeln!(out, "# ! {file}:{} {}", problem.place.line, problem.text).unwrap();
    }
    out
}

fn extra(fact: &EndpointDeclared) -> String {
    let mut out = String::new();
    let mut say = |name: &str, value: u64, usual: u64| {
        if value == u64::MAX {
            write!(out, " {name}=unbounded").unwrap();
        } else if value != usual {
            write!(out, " {name}={value}").unwrap();
        }
    };
    say("connect", fact.connect_timeout_ms, 0);
    say("read", fact.read_timeout_ms, fact.connect_timeout_ms);
    say("send", fact.send_timeout_ms, fact.read_timeout_ms);
    say("keepalive", fact.keepalive_ms.unwrap_or(0), 0);
    say("peers", fact.peers.into(), 1);
    say("down", fact.down.into(), 0);
    say("backup", fact.backup.into(), 0);
    say("max_fails", fact.max_fails.into(), 0);
    say("fail_timeout", fact.fail_timeout_ms, 0);
    say("max_conns", fact.max_conns.into(), 0);
    if !fact.upstream.is_empty() {
        write!(out, " upstream={}", fact.upstream).unwrap();
    }
    if fact.addresses.is_empty() {
        out.push_str(" unresolved");
    }
    out
}

fn cases(kind: &Kind, extension: &str) -> BTreeMap<PathBuf, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind.name);
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let cases = entries.filter(|path| path.extension().is_some_and(|found| found == extension));
    cases.map(|path| (path.clone(), fs::read_to_string(path).unwrap())).collect()
}

/// Compares what stands behind the mark with what was found.
fn compare(path: &Path, text: &str, found: &str) {
    let (input, expected) = text.split_once(BEHIND).unwrap_or((text, ""));
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        fs::write(path, format!("{input}{BEHIND}{found}")).unwrap();
        return;
    }
    assert_eq!(expected, found, "{}", path.display());
}

fn configurations(kind: &Kind) {
    let cases = cases(kind, "conf");
    assert!(cases.len() >= 12);
    for (path, text) in cases {
        let root = tempfile::tempdir().unwrap();
        let input = text.split_once(BEHIND).map_or(text.as_str(), |(input, _)| input);
        compare(&path, &text, &shown(kind, &read(kind, root.path(), input)));
    }
}

#[test]
fn configurations_of_apache() {
    configurations(kind("apache"));
}

fn told(told: &[Told]) -> String {
    let mut out = String::new();
    for Told { what, .. } in told {
        match what {
            What::Failed(failed) => writeln!(out, "# failed {}", failure(failed)).unwrap(),
            What::Answered(count) => {
                let classes = [
                    (count.success, "2xx"),
                    (count.redirect, "3xx"),
                    (count.client_error, "4xx"),
                    (count.server_error, "5xx"),
                    (count.bad_gateway, "502"),
                    (count.unavailable, "503"),
                    (count.gateway_timeout, "504"),
                    (count.relayed, "relayed"),
                ];
                let classes: Vec<&str> =
                    classes.iter().filter(|(n, _)| *n > 0).map(|(_, name)| *name).collect();
                let classes = classes.join(" ");
                writeln!(out, "# answered {} {} {classes}", count.route, count.endpoint).unwrap();
            }
            other => writeln!(out, "# {other:?}").unwrap(),
        }
    }
    out
}

fn failure(failed: &RequestFailed) -> String {
    let name = |text: &str| text.split_once('_').map_or("", |(_, name)| name).to_ascii_lowercase();
    let mut out = format!(
        "{} {} -> {} {} {}",
        failed.status.map_or_else(|| "-".to_owned(), |status| status.to_string()),
        failed.route,
        failed.endpoint,
        name(failed.phase().as_str_name()),
        name(failed.fault().as_str_name()),
    );
    for (key, value) in [
        ("upstream", &failed.upstream),
        ("method", &failed.method),
        ("path", &failed.path),
        ("message", &failed.message),
    ] {
        if !value.is_empty() {
            write!(out, " {key}={value}").unwrap();
        }
    }
    if let Some(ms) = failed.elapsed_ms {
        write!(out, " elapsed={ms}").unwrap();
    }
    if let Some(reused) = failed.reused {
        write!(out, " reused={reused}").unwrap();
    }
    out
}

/// Lines go to the log that `### log NAME` names last, the first one without.
fn recorded(kind: &Kind) {
    for (path, text) in cases(kind, "log") {
        let root = tempfile::tempdir().unwrap();
        let conf = fs::read_to_string(path.with_extension("conf")).unwrap();
        let mut effective = read(kind, root.path(), &conf);
        let input = text.split_once(BEHIND).map_or(text.as_str(), |(input, _)| input);
        let mut found = String::new();
        let mut at = 0;
        effective.logs.iter_mut().for_each(|log| log.lines.sight(true));
        for line in input.lines() {
            let mut said = Vec::new();
            if let Some(name) = line.strip_prefix("### log ") {
                let is =
                    |target: &Target| matches!(target, Target::File(path) if path.ends_with(name));
                at = effective.logs.iter().position(|log| is(&log.target)).unwrap();
            } else if line.starts_with("###") {
                effective.logs[at].lines.pause(&mut said);
                found.push_str(&told(&said));
                writeln!(found, "# {}", line.trim_start_matches('#').trim()).unwrap();
            } else {
                effective.logs[at].lines.read(line, &mut said);
                found.push_str(&told(&said));
            }
        }
        compare(&path, &text, &found);
    }
}

#[test]
fn lines_of_apache() {
    recorded(kind("apache"));
}

proptest! {
    #[test]
    fn any_configuration_of_apache_is_read(
        text in "(<VirtualHost \\*:80>|</VirtualHost>|<|>|\"|\n|\\\\\n|ProxyPass / http://a/|\\$\\{A\\}|Define A |Include \
                 apache2.conf|<Macro m \\$a>|</Macro>|Use m|<IfModule x>|</IfModule>|BalancerMember|RewriteEngine on|\
                 RewriteRule \\( http://a \\[P\\]|[^\n]{0,9}| ){0,80}"
    ) {
        let kind = kind("apache");
        let root = tempfile::tempdir().unwrap();
        let begun = Instant::now();
        read(kind, root.path(), &text);
        prop_assert!(begun.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn any_line_is_read(text in "\\PC{0,200}", code in 0_u32..20_000) {
        for kind in KINDS {
            let (mut lines, mut said) = ((kind.lines)(), Vec::new());
            lines.read(&text, &mut said);
            lines.read(&format!("[proxy:error] [pid 1:tid 2] (111)x: AH{code:05}: {text}"), &mut said);
            lines.pause(&mut said);
            (kind.knows)(&text);
        }
    }
}
