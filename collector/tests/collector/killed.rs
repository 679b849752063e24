//! The real program, and what is left of it after `kill -9`.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tokio::time::timeout;
use why502_proto::v1::query_client::QueryClient;
use why502_proto::v1::{self, report_response};

use crate::rig::{Agent, facts, hello};

const PROGRAM: &str = env!("CARGO_BIN_EXE_why502");
/// Facts that must arrive in all.
const TOTAL: u64 = 3_000;
const BATCH: u64 = 50;

struct Collector {
    child: Child,
    grpc: String,
    page: String,
}

impl Collector {
    fn start(dir: &Path) -> Self {
        Self::start_by(Command::new(PROGRAM), dir)
    }

    /// By a command that runs the program with the arguments that it is given.
    fn start_by(mut command: Command, dir: &Path) -> Self {
        let mut child = command
            .args(["serve", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", "--log", "error"])
            .arg("--state-dir")
            .arg(dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let after = |what: &str| {
            let rest = line.split_once(what).unwrap_or_else(|| panic!("{line:?}")).1;
            rest.split(|c: char| c.is_whitespace() || c == '/').next().unwrap().to_owned()
        };
        Self { grpc: after("agents http://"), page: after("page http://"), child }
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        // It has ended already, unless the test failed.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Sends everything after what the collector has, until `acks` answers came or all is acknowledged.
async fn send_some(agent: &mut Agent, acks: usize) -> u64 {
    let mut stored = agent.welcome.stored_seq;
    let mut next = stored + 1;
    for _ in 0..acks {
        // A few batches ahead of the acknowledgements, so that some are between receipt and commit.
        while next <= TOTAL && next <= stored + 8 * BATCH {
            agent.send(facts(next..(next + BATCH).min(TOTAL + 1))).await;
            next = (next + BATCH).min(TOTAL + 1);
        }
        if stored == TOTAL {
            break;
        }
        if let Some(report_response::Message::Ack(ack)) = agent.answer().await.unwrap() {
            stored = ack.stored_seq;
        }
    }
    stored
}

#[tokio::test]
async fn nothing_is_lost_or_doubled_when_it_is_killed() {
    let dir = TempDir::new().unwrap();
    let mut acknowledged = 0;
    for round in 0.. {
        let collector = Collector::start(dir.path());
        let mut agent = Agent::connect(&collector.grpc, hello("app-1")).await.unwrap();
        let stored = agent.welcome.stored_seq;
        assert!(stored >= acknowledged, "{acknowledged} was acknowledged, {stored} is there");
        acknowledged = send_some(&mut agent, 1 + round % 4).await;
        if acknowledged < TOTAL {
            collector.kill();
            continue;
        }
        assert!(round > 3, "the test killed too little");
        let mut query = QueryClient::connect(format!("http://{}", collector.grpc)).await.unwrap();
        let all =
            v1::GetTimelineRequest { host: "app-1".into(), limit: 10_000, ..Default::default() };
        let entries = query.get_timeline(all).await.unwrap().into_inner().entries;
        let seqs: Vec<u64> = entries
            .iter()
            .map(|entry| entry.id.rsplit('/').next().unwrap().parse().unwrap())
            .collect();
        assert_eq!(seqs, (1..=TOTAL).collect::<Vec<_>>());
        collector.kill();
        return;
    }
}

#[tokio::test]
async fn told_to_stop_it_ends_well() {
    let dir = TempDir::new().unwrap();
    let mut collector = Collector::start(dir.path());
    let mut agent = Agent::connect(&collector.grpc, hello("app-1")).await.unwrap();
    agent.send(facts([1])).await;
    agent.acked(1).await;
    assert!(health(&collector.page).contains("ok"), "the page answers");
    let pid = collector.child.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let ended = tokio::task::spawn_blocking(move || collector.child.wait().unwrap());
    let status = timeout(Duration::from_secs(5), ended).await.unwrap().unwrap();
    assert!(status.success(), "{status:?}");
}

fn health(address: &str) -> String {
    // Not well is an answer, too.
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    let mut answer = agent.get(&format!("http://{address}/health")).call().unwrap();
    answer.body_mut().read_to_string().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_nothing_is_acknowledged_that_is_not_stored() {
    let dir = TempDir::new().unwrap();
    // No file may grow beyond 400 blocks of 1 KiB: a write fails as on a full disk.
    let mut shell = Command::new("bash");
    shell.args(["-c", "trap '' XFSZ; ulimit -S -f 400; exec \"$0\" \"$@\"", PROGRAM]);
    let collector = Collector::start_by(shell, dir.path());
    let mut agent = Agent::connect(&collector.grpc, hello("app-1")).await.unwrap();
    let (mut sent, mut stored) = (0, 0);
    let full = "cannot be stored";
    loop {
        assert!(sent < 100_000, "the disk was never full");
        agent.send(facts(sent + 1..=sent + BATCH)).await;
        sent += BATCH;
        // No answer within a moment is what is looked for; the collector then says why.
        while stored < sent
            && let Ok(answer) = timeout(Duration::from_secs(1), agent.answer()).await
        {
            if let Some(report_response::Message::Ack(ack)) = answer.unwrap() {
                stored = ack.stored_seq;
            }
        }
        if stored < sent {
            break;
        }
    }
    assert!(health(&collector.page).contains(full));
    let pid = collector.child.id().to_string();
    let room = Command::new("prlimit").args(["--fsize=unlimited", "--pid", &pid]).status().unwrap();
    assert!(room.success());
    agent.acked_at_least(sent).await;
    assert!(!health(&collector.page).contains(full));
    collector.kill();
    let collector = Collector::start(dir.path());
    let again = Agent::connect(&collector.grpc, hello("app-1")).await.unwrap();
    assert_eq!(again.welcome.stored_seq, sent);
    collector.kill();
}

/// Exit code and what was said.
fn run(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(PROGRAM).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    (output.status.code().unwrap(), said)
}

#[test]
fn what_cannot_start_says_why_and_with_which_code() {
    let dir = TempDir::new().unwrap();
    let state = dir.path().to_str().unwrap();
    let file = dir.path().join("c.toml");
    std::fs::write(&file, "\nretain = 3\n").unwrap();
    let (code, said) = run(&["serve", "--config", file.to_str().unwrap()]);
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("c.toml:2: unknown field `retain`"), "{said}");
    let (code, said) = run(&["serve", "--http", "0.0.0.0:0", "--state-dir", state]);
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("beyond loopback"), "{said}");
    let (code, said) = run(&["serve", "--grpc", "nowhere"]);
    assert_eq!(code, 64, "{said}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let (code, said) = run(&["serve", "--grpc", &taken, "--state-dir", state]);
    assert_eq!(code, 69, "{said}");
    assert!(said.contains(&format!("cannot listen on {taken} (grpc)")), "{said}");
    std::fs::write(dir.path().join("x.pem"), "").unwrap();
    let pem = dir.path().join("x.pem");
    let pem = pem.to_str().unwrap();
    let tls = ["check-config", "--tls-cert", pem, "--tls-key", pem, "--tls-client-ca", pem];
    let (code, said) = run(&tls);
    assert_eq!(code, 78, "{said}");
    assert!(said.contains("x.pem holds no certificate"), "{said}");
    assert_eq!(run(&["check-config"]).0, 0);
}
