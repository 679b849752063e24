//! Configurations as people publish them, what they declare, and what lines of logs tell below them.
//!
//! Each file of `corpus/KIND/` is a case: its first line `# argv: ...` says how the gateway was started, then come files
//! behind lines `# file: PATH`, answers of its admin interface behind `# answer:`, lines of logs behind `# lines:`, and
//! behind `# ---` what is declared and told. Written anew by `UPDATE_EXPECT=1 cargo test -p why502-gateway --test corpus`;
//! read the difference.

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
use why502_proto::v1::{EndpointDeclared, Fault, Phase, Protocol};

const BEHIND: &str = "# ---\n";
const OURS: [&str; 2] = ["envoy", "traefik"];

struct Case {
    start: Start,
    answers: Vec<String>,
    lines: Vec<String>,
    #[expect(dead_code, reason = "held until the case is over")]
    root: tempfile::TempDir,
}

fn lay_out(text: &str) -> Case {
    let root = tempfile::tempdir().unwrap();
    let mut start =
        Start { directory: "/".into(), root: root.path().to_owned(), ..Start::default() };
    let (mut answers, mut lines, mut files) =
        (Vec::new(), Vec::new(), Vec::<(PathBuf, String)>::new());
    let mut into = "";
    for line in text.split_inclusive('\n') {
        if let Some(argv) = line.strip_prefix("# argv: ") {
            start.argv = argv.split_whitespace().map(str::to_owned).collect();
        } else if let Some(pair) = line.strip_prefix("# env: ") {
            let (name, value) = pair.trim_end().split_once('=').unwrap();
            start.environment.insert(name.to_owned(), value.to_owned());
        } else if let Some(path) = line.strip_prefix("# file: ") {
            files.push((path.trim().into(), String::new()));
            into = "file";
        } else if line == "# answer:\n" {
            answers.push(String::new());
            into = "answer";
        } else if line == "# lines:\n" {
            into = "lines";
        } else {
            match into {
                "file" => files.last_mut().unwrap().1.push_str(line),
                "answer" => answers.last_mut().unwrap().push_str(line),
                "lines" => lines.push(line.trim_end().to_owned()),
                _ => {}
            }
        }
    }
    for (path, body) in files {
        let path = below(root.path(), &path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, body).unwrap();
    }
    Case { start, answers, lines, root }
}

fn shown(kind: &Kind, case: &Case) -> String {
    let mut effective = (kind.read)(&case.start);
    if !case.answers.is_empty() {
        (kind.answered)(&mut effective, &case.answers);
    }
    let mut out = String::new();
    writeln!(
        out,
        "# {} {}",
        effective.instance,
        if effective.readable { "" } else { "(not readable)" }
    )
    .unwrap();
    let listens: Vec<&str> = effective.listens.iter().map(String::as_str).collect();
    writeln!(out, "# listens {}", listens.join(" ")).unwrap();
    if let Some(admin) = &effective.admin {
        writeln!(out, "# admin {} {}", admin.address, admin.questions.join(" ")).unwrap();
    }
    for fact in &effective.endpoints {
        writeln!(out, "# {}", declared(fact)).unwrap();
    }
    for fact in &effective.disabled {
        writeln!(out, "# disabled {} [{}]", fact.endpoint, fact.upstream).unwrap();
    }
    for problem in &effective.problems {
        writeln!(out, "# ! {}:{} {}", problem.place.file, problem.place.line, problem.text)
            .unwrap();
    }
    for log in &mut effective.logs {
        let target = match &log.target {
            Target::File(path) => path.display().to_string(),
            Target::Syslog(tag) => format!("syslog {tag}"),
            Target::Stdio => "stdio".to_owned(),
            Target::Elsewhere { reason, grant } => format!("elsewhere: {reason}; {grant}"),
        };
        writeln!(out, "# log {target}").unwrap();
    }
    told(&mut effective, &case.lines, &mut out);
    out
}

fn declared(fact: &EndpointDeclared) -> String {
    let protocol = Protocol::try_from(fact.protocol).unwrap().as_str_name();
    let protocol = protocol.trim_start_matches("PROTOCOL_").to_ascii_lowercase();
    let mut out = format!(
        "{} -> {} {protocol} {}:{} [{}] of {} connect={} read={}",
        fact.route,
        fact.endpoint,
        fact.file,
        fact.line,
        fact.upstream,
        fact.peers,
        fact.connect_timeout_ms,
        fact.read_timeout_ms,
    );
    if let Some(keep) = fact.keepalive_ms {
        write!(out, " keep={keep}").unwrap();
    }
    for (name, is) in [("down", fact.down), ("backup", fact.backup)] {
        if is {
            write!(out, " {name}").unwrap();
        }
    }
    if fact.addresses.as_slice() != [fact.endpoint.clone()] {
        write!(out, " addresses={}", fact.addresses.join(",")).unwrap();
    }
    if fact.max_fails != 0 {
        write!(out, " max_fails={} {}", fact.max_fails, fact.fail_timeout_ms).unwrap();
    }
    out
}

/// Lines go through every log of the case: a line belongs to one of them only.
fn told(effective: &mut Effective, lines: &[String], out: &mut String) {
    for line in lines {
        let mut told = Vec::new();
        for log in
            effective.logs.iter_mut().filter(|log| !matches!(log.target, Target::Elsewhere { .. }))
        {
            if told.is_empty() {
                log.lines.read(line, &mut told);
            }
        }
        let short: String = line.chars().take(90).collect();
        writeln!(out, "# > {short}").unwrap();
        for told in told {
            writeln!(out, "#   {}", event(&told)).unwrap();
        }
    }
}

fn event(told: &Told) -> String {
    let at = told.at_us.map_or_else(|| "-".to_owned(), |at| at.to_string());
    match &told.what {
        What::Failed(fact) => format!(
            "{at} failed {} -> {} [{}] {} {} status={} {} {} ms={} {}",
            fact.route,
            fact.endpoint,
            fact.upstream,
            Phase::try_from(fact.phase).unwrap().as_str_name(),
            Fault::try_from(fact.fault).unwrap().as_str_name(),
            fact.status.unwrap_or(0),
            fact.method,
            fact.path,
            fact.elapsed_ms.map_or_else(String::new, |ms| ms.to_string()),
            fact.message,
        ),
        What::Answered(fact) => format!(
            "{at} answered {} -> {} 2xx={} 4xx={} 5xx={} relayed={} slowest={:?}",
            fact.route,
            fact.endpoint,
            fact.success,
            fact.client_error,
            fact.server_error,
            fact.relayed,
            fact.slowest_ms,
        ),
        What::Disabled(fact) => format!(
            "{at} disabled {} [{}] {} {}",
            fact.endpoint,
            fact.upstream,
            Fault::try_from(fact.fault).unwrap().as_str_name(),
            fact.message,
        ),
        What::Reloaded(fact) => format!("{at} reloaded {}", fact.error),
        What::Event(fact) => format!("{at} event {}", fact.text),
    }
}

fn kinds() -> impl Iterator<Item = &'static Kind> {
    KINDS.iter().filter(|kind| OURS.contains(&kind.name))
}

#[test]
fn every_case_means_what_stands_behind_it() {
    let mut wrong = BTreeMap::new();
    for kind in kinds() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus").join(kind.name);
        let mut files: Vec<_> =
            fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(files.len() >= 12, "{} has only {} cases", kind.name, files.len());
        for path in files {
            let text = fs::read_to_string(&path).unwrap();
            let (case, expected) = text.split_once(BEHIND).unwrap_or((&text, ""));
            let found = shown(kind, &lay_out(case));
            if found == expected {
                continue;
            }
            if std::env::var_os("UPDATE_EXPECT").is_some() {
                fs::write(&path, format!("{case}{BEHIND}{found}")).unwrap();
            } else {
                wrong.insert(path, found);
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// One site of many: `{n}` is its number.
const SITES: [(&str, &str, &str); 2] = [
    (
        "envoy",
        "/etc/envoy/envoy.yaml",
        "  - name: c{n}\n    connect_timeout: 1s\n    type: STATIC\n    load_assignment:\n      cluster_name: c{n}\n      \
         endpoints:\n      - lb_endpoints:\n        - endpoint:\n            address:\n              socket_address:\n\
         \x20               address: 10.0.0.1\n                port_value: {port}\n",
    ),
    (
        "traefik",
        "/etc/traefik/dynamic.yml",
        "    s{n}:\n      loadBalancer:\n        servers:\n          - url: http://10.0.0.1:{port}\n",
    ),
];

#[test]
fn twenty_thousand_servers_take_linear_time() {
    for (name, path, site) in SITES {
        let mut took = Vec::new();
        for count in [5_000_usize, 20_000] {
            let one = |n: usize| {
                site.replace("{n}", &n.to_string()).replace("{port}", &(n % 60_000 + 1).to_string())
            };
            let sites: String = (0..count).map(one).collect();
            let begin = match name {
                "envoy" => "static_resources:\n  clusters:\n".to_owned(),
                _ => "http:\n  services:\n".to_owned(),
            };
            let main = "# argv: traefik --providers.file.filename=/etc/traefik/dynamic.yml\n";
            let argv =
                if name == "envoy" { "# argv: envoy -c /etc/envoy/envoy.yaml\n" } else { main };
            let case = lay_out(&format!("{argv}# file: {path}\n{begin}{sites}"));
            let kind = kinds().find(|kind| kind.name == name).unwrap();
            let begun = Instant::now();
            let effective = (kind.read)(&case.start);
            took.push(begun.elapsed());
            assert!(
                effective.readable && effective.problems.is_empty(),
                "{:?}",
                effective.problems
            );
        }
        // An unoptimised build on a busy machine: only that it is not quadratic can be held.
        assert!(took[1] < took[0] * 12 + Duration::from_secs(1), "{name}: {took:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        for (name, path, _) in SITES {
            let kind = kinds().find(|kind| kind.name == name).unwrap();
            let root = tempfile::tempdir().unwrap();
            let at = below(root.path(), Path::new(path));
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            fs::write(&at, &bytes).unwrap();
            let argv = ["p", "-c", path, "--providers.file.filename", path];
            let argv = argv.into_iter().map(str::to_owned).collect();
            let start = Start { argv, directory: "/".into(), root: root.path().into(), ..Start::default() };
            let mut effective = (kind.read)(&start);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            (kind.answered)(&mut effective, &[text.clone(), text.clone(), text.clone()]);
            let mut told = Vec::new();
            for line in text.lines() {
                (kind.knows)(line);
                (kind.lines)().read(line, &mut told);
                effective.logs.iter_mut().for_each(|log| log.lines.read(line, &mut told));
            }
        }
    }

    /// Lines that begin well.
    #[test]
    fn any_end_of_a_line_is_read(cut in 0_usize..400, junk in ".{0,20}") {
        for line in GOOD {
            let cut = line.char_indices().map(|(at, _)| at).nth(cut).unwrap_or(line.len());
            let line = format!("{}{junk}", &line[..cut]);
            for kind in kinds() {
                (kind.knows)(&line);
                (kind.lines)().read(&line, &mut Vec::new());
            }
        }
    }
}

const GOOD: [&str; 4] = [
    "[2026-11-27T21:41:07.462Z] \"GET /refused?token=1 HTTP/1.1\" 503 UF 0 98 0 - \"-\" \"curl/7.88.1\" \"06\" \"127.0.0.1:10000\" \"127.0.0.1:9\"",
    "127.0.0.1 - - [27/Nov/2026:21:42:16 +0000] \"GET /refused?token=1 HTTP/1.1\" 502 11 \"-\" \"-\" 2 \"refused@file\" \"http://127.0.0.1:9\" 0ms",
    "2026-11-27T21:42:32Z ERR 500 Internal Server Error error=\"tls: first record does not look like a TLS handshake\"",
    "{\"level\":\"debug\",\"error\":\"dial tcp 127.0.0.1:9: connect: connection refused\",\"time\":\"2026-11-27T21:42:52Z\",\"message\":\"502 Bad Gateway\"}",
];
