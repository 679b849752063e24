//! Measures what the README promises: how fast a death is in the collector's store, how fast the
//! first failed request is explained, and what the agent costs while nothing happens.

use std::fs;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};
use why502_tests::client::unix_us;
use why502_tests::install::{self, Build};
use why502_tests::lab::{self, Host, Lab};
use why502_tests::report::quantile;
use why502_tests::run::chain_of;
use why502_tests::scenario::{CLIENT, COLLECTOR};
use why502_tests::view::{self, unit_pids};

/// How often node-exporter is scraped: an hour of Prometheus is 360 of these.
const SCRAPE: Duration = Duration::from_secs(10);
/// A death that is not stored after this is counted as lost.
const STORED_MAX: Duration = Duration::from_secs(5);
/// Unit of CPU times in /proc, see proc(5): 100 on every architecture that Debian has.
const USER_HZ: u64 = 100;
const START_MAX: Duration = Duration::from_secs(30);

const APP: &str = include_str!("../../bench/app.py");
const SERVICE: &str = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nRuntimeDirectory=app\n\
    ExecStart=/usr/bin/python3 /srv/app.py\nRestart=always\nRestartSec=20ms\n";
const EXPORTER: &str = "[Service]\nExecStart=/usr/bin/prometheus-node-exporter\n";

/// Measure latency and cost, on throw-away hosts
#[derive(Debug, Parser)]
struct Args {
    /// How many processes are killed
    #[arg(long, default_value_t = 100)]
    kills: u32,
    /// How long the idle agent is watched
    #[arg(long, default_value_t = 60)]
    idle_s: u64,
    /// Leave out the fault bench, which takes minutes
    #[arg(long)]
    no_bench: bool,
}

type Failure = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    match figures(&Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("figures: {}", chain_of(&*error)));
            ExitCode::FAILURE
        }
    }
}

fn figures(args: &Args) -> Result<(), Failure> {
    lab::sweep();
    lab::stop_on_signals();
    let me = std::env::current_exe()?;
    let programs = me.parent().unwrap_or(Path::new(".")).to_owned();
    let packaging = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging");
    let build = Build { programs: programs.clone(), packaging };
    machine(&programs);
    let names = ["app1", CLIENT, COLLECTOR];
    let lab = Lab::boot(&names, |layer| install::dress(layer, &build, &names))?;
    let (Some(app), Some(collector)) = (lab.host("app1"), lab.host(COLLECTOR)) else {
        return Err("a host is missing".into());
    };
    fs::create_dir_all(app.root().join("srv"))?;
    fs::write(app.root().join("srv/app.py"), APP)?;
    let units = app.root().join("etc/systemd/system");
    fs::write(units.join("victim.service"), SERVICE)?;
    fs::write(units.join("exporter.service"), EXPORTER)?;
    for arguments in [&["daemon-reload"][..], &["start", "victim", "exporter"]] {
        app.command("systemctl").args(arguments).status()?;
    }
    install::start(&lab, &["app1".to_owned()], &[], START_MAX)?;
    idle(&lab, app, args.idle_s)?;
    kills(&lab, app, collector, args.kills)?;
    drop(lab);
    if !args.no_bench {
        bench(&programs)?;
    }
    Ok(())
}

/// What it was measured on.
fn machine(programs: &Path) {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("?");
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let command: Vec<_> = std::env::args().collect();
    say(&format!("machine   {cores} x {}", model.trim_start_matches(['\t', ' ', ':'])));
    say(&format!("kernel    {}", kernel.trim()));
    say(&format!("load      {}", load.trim()));
    let profile = programs.file_name().unwrap_or_default().to_string_lossy();
    say(&format!("command   {} ({profile} build)", command.join(" ")));
}

/// Memory and CPU of one service.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    processes: usize,
    pss_kib: u64,
    anon_kib: u64,
    cpu_ticks: u64,
}

/// Sums over all processes of a unit.
fn cost(lab: &Lab, host: &Host, unit: &str) -> io::Result<Cost> {
    let mut sum = Cost::default();
    for pid in unit_pids(lab, host, unit)? {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let kib = |key: &str| {
            let line = rollup.lines().find_map(|line| line.strip_prefix(key));
            let number = line.and_then(|line| line.split_whitespace().next());
            number.and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // utime, stime, and those of children that it waited for: fields 14 to 17 of proc(5).
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let ticks = after_name.split_whitespace().skip(11).take(4);
        sum.processes += 1;
        sum.pss_kib += kib("Pss:");
        sum.anon_kib += kib("Pss_Anon:");
        sum.cpu_ticks += ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>();
    }
    Ok(sum)
}

fn idle(lab: &Lab, app: &Host, idle_s: u64) -> Result<(), Failure> {
    say(&format!("\nidle for {idle_s} s, node-exporter scraped every {} s", SCRAPE.as_secs()));
    let client = lab.host(CLIENT).ok_or("no client")?;
    let services = ["why502-agent.service", "exporter.service"];
    let mut before = Vec::new();
    for unit in services {
        before.push(cost(lab, app, unit)?);
    }
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(idle_s) {
        let url = "http://app1:9100/metrics";
        client.command("curl").args(["-s", "-o", "/dev/null", url]).status()?;
        thread::sleep(SCRAPE.min(Duration::from_secs(idle_s).saturating_sub(begun.elapsed())));
    }
    for (unit, before) in services.iter().zip(before) {
        let now = cost(lab, app, unit)?;
        let hundredths = (now.cpu_ticks - before.cpu_ticks) * 100 / USER_HZ;
        say(&format!(
            "  {unit:<22} {} processes, PSS {} KiB, of it anonymous {} KiB, CPU {}.{:02} s",
            now.processes,
            now.pss_kib,
            now.anon_kib,
            hundredths / 100,
            hundredths % 100
        ));
    }
    Ok(())
}

fn kills(lab: &Lab, app: &Host, collector: &Host, count: u32) -> Result<(), Failure> {
    say(&format!("\nkill -9 of a listening service to the fact in the store, {count} times"));
    let mut seconds = Vec::new();
    let mut lost = 0;
    for _ in 0..count {
        let pid = listening(lab, app)?;
        let killed = Instant::now();
        let killed_us = unix_us(SystemTime::now());
        kill_process(pid, Signal::KILL)?;
        match view::wait_for_fact(collector, "app1", killed_us, STORED_MAX, is_death) {
            Ok(true) => seconds.push(killed.elapsed().as_secs_f64()),
            Ok(false) => lost += 1,
            Err(error) => return Err(error.into()),
        }
    }
    seconds.sort_by(f64::total_cmp);
    let ms = |percent| quantile(&seconds, percent).map_or(f64::NAN, |seconds| seconds * 1e3);
    say(&format!("  median {:.1} ms, p99 {:.1} ms, lost {lost}", ms(50), ms(99)));
    say("  (seen by asking the API without a pause: up to one request is in it)");
    Ok(())
}

fn is_death(kind: &str, text: &str) -> bool {
    kind == "process_exited" && text.contains("unit=victim.service")
}

/// The victim's process, once it listens again.
fn listening(lab: &Lab, app: &Host) -> Result<Pid, Failure> {
    let deadline = Instant::now() + START_MAX;
    while Instant::now() < deadline {
        let up =
            app.command("curl").args(["-s", "-o", "/dev/null", "http://app1:8000/"]).status()?;
        if up.success()
            && let Some(pid) = unit_pids(lab, app, "victim.service")?.first()
        {
            // The agent looks at new listeners at least once a second.
            thread::sleep(Duration::from_millis(1200));
            return Ok(Pid::from_raw(*pid).ok_or("no pid")?);
        }
        thread::sleep(Duration::from_millis(20));
    }
    Err("the service did not come back".into())
}

fn bench(programs: &Path) -> Result<(), Failure> {
    say("\nfirst failed request to the right root cause in the store, over the fault bench");
    let output = Command::new(programs.join("bench"))
        .args(["--format", "json"])
        .stderr(std::process::Stdio::inherit())
        .output()?;
    let report: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let total = &report["total"];
    say(&format!(
        "  median {} s, p99 {} s, over {} scenarios, right first {}",
        total["seconds_p50"], total["seconds_p99"], total["count"], total["right_first"]
    ));
    Ok(())
}

fn say(text: &str) {
    // A closed pipe does not end the measurement.
    let _ = writeln!(io::stdout(), "{text}");
}
