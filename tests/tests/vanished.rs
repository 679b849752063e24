//! An agent whose collector vanishes without a word: the link is cut, and neither side is told.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use why502_tests::install::{self, Build};
use why502_tests::lab::{Host, Lab};
use why502_tests::scenario::COLLECTOR;
use why502_tests::view;

/// Name under which the collector itself writes facts.
const OWN_NAME: &str = "why502-collector";
/// What ingest.proto promises, and some for a machine under load.
const NOTICED_MAX: Duration = Duration::from_secs(20 + 5);
/// The longest pause of an agent that has to try again, and what it then takes to deliver.
const BACK_MAX: Duration = Duration::from_secs(30 + 10);
/// Addresses that are listened on in each part of the test.
const LISTENERS: u16 = 20;

#[test]
fn a_vanished_collector_is_noticed_and_nothing_is_lost_or_doubled() {
    if !rustix::process::getuid().is_root() {
        // The bench, which asks for root itself, proves the streams that stay.
        return;
    }
    let lab = boot();
    let (app, collector) = (lab.host("app").unwrap(), lab.host(COLLECTOR).unwrap());
    listen(app, "before", 9100);
    assert!(arrived(collector, 9100, BACK_MAX), "the link is good");

    lab.plug("app", false).unwrap();
    let cut = Instant::now();
    listen(app, "unnoticed", 9200);
    let said = noticed(app);
    assert!(cut.elapsed() < NOTICED_MAX, "{:?}: {said}", cut.elapsed());
    let silent = |kind: &str, text: &str| {
        kind == "agent_silent" && text.contains("host=app") && !text.contains("ended")
    };
    let told = view::wait_for_fact(collector, OWN_NAME, 0, NOTICED_MAX, silent).unwrap();
    assert!(told && cut.elapsed() < NOTICED_MAX, "{:?}", cut.elapsed());
    listen(app, "noticed", 9300);

    lab.plug("app", true).unwrap();
    assert!(arrived(collector, 9300, BACK_MAX), "it comes back by itself");
    let ended = |_: &str, text: &str| text.contains("host=app") && text.contains("ended=true");
    assert!(view::wait_for_fact(collector, OWN_NAME, 0, BACK_MAX, ended).unwrap());
    check_complete(collector);
}

fn boot() -> Lab {
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "-p", "why502-agent", "-p", "why502-collector"])
        .status()
        .unwrap();
    assert!(built.success());
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let programs = Path::new(env!("CARGO_BIN_EXE_bench")).parent().unwrap().to_owned();
    let build = Build { programs, packaging: repository.join("packaging") };
    let names = ["app", COLLECTOR];
    let lab = Lab::boot(&names, |layer| install::dress(layer, &build, &names)).unwrap();
    install::start(&lab, &["app".to_owned()], &[], Duration::from_secs(30)).unwrap();
    lab
}

/// Opens [`LISTENERS`] sockets on `host`, from `port` on, and keeps them open.
fn listen(host: &Host, unit: &str, port: u16) {
    let program = format!(
        "import socket, subprocess, signal\n\
         held = [socket.create_server(('0.0.0.0', {port} + n)) for n in range({LISTENERS})]\n\
         subprocess.run(['systemd-notify', '--ready'])\n\
         signal.pause()"
    );
    let started = host
        .command("systemd-run")
        .args(["--quiet", "--unit", unit, "-p", "Type=notify", "-p", "NotifyAccess=all"])
        .args(["/usr/bin/python3", "-c", &program])
        .status()
        .unwrap();
    assert!(started.success(), "{unit} listens");
}

/// Whether the last of the listeners from `port` on is in the store.
fn arrived(collector: &Host, port: u16, max: Duration) -> bool {
    let address = format!("address=0.0.0.0:{} ", port + LISTENERS - 1);
    let opened = |kind: &str, text: &str| kind == "listener_opened" && text.contains(&address);
    view::wait_for_fact(collector, "app", 0, max, opened).unwrap()
}

/// Waits until the agent says that facts wait, and gives back what it said.
fn noticed(host: &Host) -> String {
    let mut journal = host
        .command("timeout")
        .args(["60", "journalctl", "-f", "-n", "all", "-o", "cat", "-u", "why502-agent"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(journal.stdout.take().unwrap()).lines();
    // At its start it may have been there before the collector.
    let mut after = lines.map(Result::unwrap).skip_while(|line| !line.contains("connected to"));
    let said = after.find(|line| line.contains("facts wait in the spool"));
    journal.kill().unwrap();
    journal.wait().unwrap();
    said.expect("the agent notices")
}

/// Every fact of the agent is there, and every listener once.
fn check_complete(collector: &Host) {
    let store = view::store(collector, &["app".to_owned()]).unwrap();
    let mut seqs: Vec<u64> =
        store.facts.keys().map(|id| id.rsplit('/').next().unwrap().parse().unwrap()).collect();
    seqs.sort_unstable();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "no gap");
    let mut opened: BTreeMap<u16, u32> = BTreeMap::new();
    for fact in store.facts.values().filter(|fact| fact.kind == "listener_opened") {
        let address = fact.text.split(' ').find_map(|field| field.strip_prefix("address="));
        let port = address.and_then(|address| address.strip_prefix("0.0.0.0:")?.parse().ok());
        *opened.entry(port.unwrap_or_default()).or_default() += 1;
    }
    for port in [9100, 9200, 9300].into_iter().flat_map(|first| first..first + LISTENERS) {
        assert_eq!(opened.get(&port), Some(&1), "{port}: {opened:?}");
    }
}
