//! Every gateway, every way in which its origin can fail it, for real: what the fact says and what the client saw.
//!
//! The table in `symptoms/expected.txt` is read by a person, against what each gateway's source says it does. To accept
//! a change: `UPDATE_EXPECT=1 cargo test -p why502-tests --test symptoms`; read the difference.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "symptoms/gateways.rs"]
mod gateways;
#[path = "symptoms/watch.rs"]
mod watch;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::thread;

use gateways::{GATEWAYS, Gateway};
use watch::Facts;
use why502_tests::install::{self, Build};
use why502_tests::lab::{Host, Lab};

/// Where requests are sent.
#[derive(Clone, Copy, Debug)]
pub(crate) enum To {
    /// A port of the origin, in the clear.
    Port(u16),
    /// Another address.
    Address(&'static str),
    /// The gateway speaks TLS, and asks for no certificate that it knows.
    Tls(u16),
    /// The gateway speaks TLS and checks the certificate.
    Checked(u16),
    /// A unix socket.
    Unix(&'static str),
}

/// A way to fail.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Symptom {
    /// Its name, and the first part of the path.
    pub name: &'static str,
    /// Where requests are sent.
    pub to: To,
}

/// What `origin.py` serves, and what nobody does.
const SYMPTOMS: &[Symptom] = &[
    Symptom { name: "good", to: To::Port(9020) },
    Symptom { name: "refused", to: To::Port(9000) },
    Symptom { name: "dropped", to: To::Address("10.98.0.77:80") },
    Symptom { name: "no-route", to: To::Address("192.0.2.1:80") },
    Symptom { name: "queue-full", to: To::Port(9012) },
    Symptom { name: "socket-missing", to: To::Unix("/run/origin/missing.sock") },
    Symptom { name: "socket-stale", to: To::Unix("/run/origin/stale.sock") },
    Symptom { name: "socket-full", to: To::Unix("/run/origin/full.sock") },
    Symptom { name: "fin", to: To::Port(9001) },
    Symptom { name: "rst", to: To::Port(9002) },
    Symptom { name: "header-late", to: To::Port(9003) },
    Symptom { name: "header-big", to: To::Port(9004) },
    Symptom { name: "header-bad", to: To::Port(9005) },
    Symptom { name: "not-http", to: To::Port(9006) },
    Symptom { name: "tls-to-plain", to: To::Tls(9007) },
    Symptom { name: "plain-to-tls", to: To::Port(9008) },
    Symptom { name: "certificate", to: To::Checked(9008) },
    Symptom { name: "dns", to: To::Address("app.invalid:80") },
    Symptom { name: "body-cut", to: To::Port(9010) },
    Symptom { name: "relayed", to: To::Port(9011) },
];

const ORIGIN: &str = "[Service]\nType=notify\nNotifyAccess=all\nRuntimeDirectory=origin\n\
    RuntimeDirectoryMode=0755\nExecStart=/usr/bin/python3 /srv/origin.py\n";

#[test]
fn what_the_gateway_felt_is_what_the_fact_says() {
    if !rustix::process::getuid().is_root() {
        // The bench, which asks for root itself, meets most of these too.
        return;
    }
    let lab = Lab::boot(&["gw"], |layer| install::dress(layer, &build(), &["gw"])).unwrap();
    let host = lab.host("gw").unwrap();
    let root = host.root();
    std::fs::create_dir_all(root.join("srv")).unwrap();
    std::fs::write(root.join("srv/origin.py"), include_str!("../symptoms/origin.py")).unwrap();
    std::fs::write(root.join("etc/systemd/system/origin.service"), ORIGIN).unwrap();
    // What is sent there vanishes; nobody answers on the bridge.
    inside(
        host,
        "ip",
        &["neigh", "replace", "10.98.0.77", "lladdr", "02:00:00:00:00:77", "dev", "eth0"],
    );
    for gateway in GATEWAYS {
        for (path, text) in (gateway.files)(SYMPTOMS) {
            let path = root.join(path.trim_start_matches('/'));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
    }
    inside(host, "systemctl", &["daemon-reload"]);
    inside(host, "systemctl", &["start", "origin"]);
    for gateway in GATEWAYS {
        inside(host, "systemctl", &["restart", gateway.unit]);
    }
    let facts = Facts::start(host);
    let tables: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> =
            GATEWAYS.iter().map(|gateway| scope.spawn(|| table(gateway, host, &facts))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    expect_test::expect_file!["../symptoms/expected.txt"].assert_eq(&tables.join("\n"));
}

/// A line for each symptom.
fn table(gateway: &Gateway, host: &Host, facts: &Facts) -> String {
    let mut table = format!("{}\n", gateway.name);
    facts.wait(|fact| {
        fact.starts_with("endpoint_declared ") && gateway.owns(fact) && fact.contains("/good")
    });
    // It may listen before it knows where to send anything.
    let retry = ["--retry", "30", "--retry-delay", "1", "--retry-all-errors", "-f"];
    get(gateway, host, "good", &retry);
    for symptom in SYMPTOMS {
        let mut status = get(gateway, host, symptom.name, &[]);
        let wanted = |fact: &str| {
            fact.starts_with("request_failed ")
                && gateway.owns(fact)
                && fact.contains(&format!("/{}", symptom.name))
        };
        let good = symptom.name == "good";
        let mut failed = if good { None } else { facts.wait(wanted) };
        if failed.is_none() && !good {
            // On a busy machine the agent may not have found the log yet.
            status = get(gateway, host, symptom.name, &[]);
            failed = facts.wait(wanted);
        }
        let said = failed.map_or_else(|| "nothing".to_owned(), |fact| short(&fact));
        writeln!(table, "  {:15} {status}  {said}", symptom.name).unwrap();
    }
    table
}

/// The status that a client sees; "000": none.
fn get(gateway: &Gateway, host: &Host, name: &str, more: &[&str]) -> String {
    let url = format!("http://127.0.0.1:{}/{name}/x", gateway.port);
    let output = host
        .command("curl")
        .args(["-s", "-o", "/dev/null", "-m", "20", "-w", "%{http_code}"])
        .args(more)
        .arg(&url)
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The parts of a fact that do not change from run to run.
fn short(fact: &str) -> String {
    const KEYS: [&str; 5] = ["phase=", "fault=", "status=", "endpoint=", "route="];
    let parts = fact.split_whitespace().filter(|part| KEYS.iter().any(|key| part.starts_with(key)));
    parts.collect::<Vec<_>>().join(" ")
}

fn build() -> Build {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "-p", "why502-agent", "-p", "why502-collector"])
        .status()
        .unwrap();
    assert!(built.success());
    let programs = Path::new(env!("CARGO_BIN_EXE_bench")).parent().unwrap().to_owned();
    Build { programs, packaging: Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging") }
}

fn inside(host: &Host, program: &str, arguments: &[&str]) {
    let output = host.command(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {output:?}");
}
