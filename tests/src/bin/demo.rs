//! Shows one 502 explained: throw-away hosts, nginx on one, a service with a memory limit on another,
//! and the explanation as it arrives.

use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use why502_tests::client::{Client, unix_us};
use why502_tests::install::{self, Build};
use why502_tests::lab::{self, Host, Lab};
use why502_tests::run::chain_of;
use why502_tests::scenario::{CLIENT, COLLECTOR};
use why502_tests::view::Follow;

/// The explanation takes less than a second; a loaded machine may take longer.
const WITHIN: Duration = Duration::from_secs(30);
/// Time for the last words to arrive.
const SETTLE: Duration = Duration::from_millis(1500);

const APP: &str = include_str!("../../bench/app.py");
const SERVICE: &str =
    "[Service]\nExecStart=/usr/bin/python3 /srv/app.py\nRuntimeDirectory=app\nMemoryMax=80M\n";
const SITE: &str =
    "server { listen 80 default_server; location / { proxy_pass http://app1:8000; } }\n";

/// See a 502 explained, on throw-away hosts
#[derive(Debug, Parser)]
struct Args {
    /// Leave the hosts up
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match demo(args.keep) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("demo: {}", chain_of(&*error)));
            ExitCode::FAILURE
        }
    }
}

fn demo(keep: bool) -> Result<(), Box<dyn std::error::Error>> {
    lab::sweep();
    lab::stop_on_signals();
    let me = std::env::current_exe()?;
    let build = Build {
        programs: me.parent().unwrap_or(Path::new(".")).to_owned(),
        packaging: Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging"),
    };
    let begun = Instant::now();
    let step = |what: &str| say(&format!("{:6.1} s  {what}", begun.elapsed().as_secs_f64()));
    let names = ["gw", "app1", CLIENT, COLLECTOR];
    step("booting four hosts: gw (nginx), app1 (the service), client, collector");
    let mut lab = Lab::boot(&names, |layer| install::dress(layer, &build, &names))?;
    let (Some(gw), Some(app), Some(client), Some(collector)) =
        (lab.host("gw"), lab.host("app1"), lab.host(CLIENT), lab.host(COLLECTOR))
    else {
        return Err("a host is missing".into());
    };
    step("starting api.service on app1 with MemoryMax=80M, and nginx on gw in front of it");
    std::fs::create_dir_all(app.root().join("srv"))?;
    std::fs::write(app.root().join("srv/app.py"), APP)?;
    std::fs::write(app.root().join("etc/systemd/system/api.service"), SERVICE)?;
    std::fs::write(gw.root().join("etc/nginx/conf.d/site.conf"), SITE)?;
    inside(app, "systemctl", &["daemon-reload"])?;
    inside(app, "systemctl", &["start", "api"])?;
    inside(gw, "systemctl", &["start", "nginx"])?;
    step("starting the collector, and an agent on gw and app1 (mutual TLS)");
    let agents = ["gw".to_owned(), "app1".to_owned()];
    install::start(&lab, &agents, &[], WITHIN)?;
    step("the client requests http://gw/ five times a second");
    let log = lab.dir().join("requests.jsonl");
    let requests = Client::start(client, "http://gw/", "GET", log)?;
    if requests.wait(0, WITHIN, |request| request.status == 200).is_none() {
        return Err("http://gw/ never answered 200".into());
    }
    let follow = Follow::start(collector)?;
    step("200. Now a request to app1 takes memory without end ...");
    let broken_us = unix_us(SystemTime::now());
    inside(app, "touch", &["/run/app/leak"])?;
    match requests.wait(broken_us, WITHIN, |request| request.failed()) {
        Some(failed) => step(&format!("the client sees {}", failed.status)),
        None => return Err("no request failed".into()),
    }
    let explained = follow.wait(WITHIN, |look| {
        look.incidents.iter().any(|i| i.kind == "observed" && i.verdict == "explained")
    });
    step(if explained { "explained:" } else { "not explained; what is known:" });
    std::thread::sleep(SETTLE);
    let answer = collector.command("why502").arg("explain").output()?;
    say("");
    say(String::from_utf8_lossy(&answer.stdout).trim_end());
    say(String::from_utf8_lossy(&answer.stderr).trim_end());
    if keep {
        step(&format!("hosts stay up: {} HOST COMMAND...", lab.exec_path().display()));
        lab.keep();
    }
    if explained { Ok(()) } else { Err("there was no explanation".into()) }
}

fn inside(host: &Host, program: &str, arguments: &[&str]) -> io::Result<()> {
    let output = host.command(program).args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program} on {}: {}", host.name(), said.trim())))
}

fn say(text: &str) {
    // A closed pipe ends nothing here: the hosts are still taken down.
    let _ = writeln!(io::stdout(), "{text}");
}
