//! What agents may rely on, over real sockets.

use tempfile::TempDir;
use tonic::Code;
use tonic::transport::Endpoint;
use why502_collector::clock::now_us;
use why502_proto::v1::{self, report_request, report_response};

use crate::rig::{Agent, Rig, fact, facts, hello, open};

const HOUR_US: i64 = 3_600_000_000;

#[tokio::test]
async fn a_fact_that_comes_again_changes_nothing() {
    let dir = TempDir::new().unwrap();
    let rig = Rig::plain(dir.path()).await;
    let mut agent = rig.agent("app-1").await;
    assert_eq!((agent.welcome.stored_seq, agent.welcome.protocol), (0, 1));
    agent.send(facts(1..=3)).await;
    agent.acked(3).await;
    agent.send(facts(2..=5)).await;
    agent.acked(5).await;
    drop(agent);
    let again = next_stream(&rig, "app-1").await;
    assert_eq!(again.welcome.stored_seq, 5, "the next stream begins there");
    assert_eq!(rig.seqs("app-1").await, [1, 2, 3, 4, 5]);
    assert_eq!(rig.view.metrics().facts_repeated.get(), 2);
    assert_eq!(rig.view.metrics().facts_stored.get(), 5);
}

/// A stream after the last one's end, which the collector notices a moment later.
async fn next_stream(rig: &Rig, host: &str) -> Agent {
    loop {
        match Agent::connect(&rig.address, hello(host)).await {
            Ok(agent) => return agent,
            Err(status) => assert_eq!(status.code(), Code::AlreadyExists, "{status:?}"),
        }
    }
}

#[tokio::test]
async fn a_gap_is_counted_and_no_error() {
    let dir = TempDir::new().unwrap();
    let rig = Rig::plain(dir.path()).await;
    let mut agent = rig.agent("app-1").await;
    agent.send(facts([1, 2, 9])).await;
    agent.acked(9).await;
    assert_eq!(rig.view.metrics().facts_missing.get(), 6);
}

#[tokio::test]
async fn facts_of_an_earlier_boot_are_acknowledged_for_that_boot() {
    let dir = TempDir::new().unwrap();
    let rig = Rig::plain(dir.path()).await;
    let mut agent = rig.agent("app-1").await;
    let batch = v1::Batch { boot_id: "earlier".into(), facts: facts([7]) };
    agent.say(report_request::Message::Batch(batch)).await;
    let Some(report_response::Message::Ack(ack)) = agent.answer().await.unwrap() else { panic!() };
    assert_eq!((ack.boot_id.as_str(), ack.stored_seq), ("earlier", 7));
    agent.send(facts([1])).await;
    agent.acked(1).await;
}

#[tokio::test]
async fn what_is_no_hello_is_refused_with_the_reason() {
    let dir = TempDir::new().unwrap();
    let rig = Rig::plain(dir.path()).await;
    let refused = async |change: fn(&mut v1::Hello)| {
        let mut hello = hello("app-1");
        change(&mut hello);
        let status = Agent::connect(&rig.address, hello).await.err().unwrap();
        (status.code(), status.message().to_owned())
    };
    let (code, text) = refused(|hello| (hello.protocol_min, hello.protocol_max) = (2, 9)).await;
    assert_eq!(code, Code::FailedPrecondition);
    assert!(text.contains("speaks protocol 2 to 9"), "{text}");
    let (code, text) = refused(|hello| hello.host = "../etc".into()).await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(text.contains("is not a host name"), "{text}");
    let (code, _) = refused(|hello| hello.boot_id.clear()).await;
    assert_eq!(code, Code::InvalidArgument);
    assert_eq!(rig.view.hosts().await.unwrap().hosts, [], "nothing of it is kept");
}

#[tokio::test]
async fn a_stream_begins_with_hello() {
    let dir = TempDir::new().unwrap();
    let rig = Rig::plain(dir.path()).await;
    let endpoint = Endpoint::from_shared(format!("http://{}", rig.address)).unwrap();
    let first = report_request::Message::Batch(v1::Batch::default());
    let (_requests, mut answers) = open(endpoint.connect().await.unwrap(), first).await.unwrap();
    assert_eq!(answers.message().await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn one_stream_speaks_for_a_host() {
    let dir = TempDir::new().unwrap();
    let rig = Rig::plain(dir.path()).await;
    let mut first = rig.agent("app-1").await;
    let status = Agent::connect(&rig.address, hello("app-1")).await.err().unwrap();
    assert_eq!(status.code(), Code::AlreadyExists);
    assert!(status.message().contains("127.0.0.1"), "{status:?}");
    first.send(facts([1])).await;
    first.acked(1).await;
    let _other_host = rig.agent("app-2").await;
}

#[tokio::test]
async fn an_oversize_message_ends_its_stream_and_nothing_else() {
    let dir = TempDir::new().unwrap();
    let rig = Rig::plain(dir.path()).await;
    let mut other = rig.agent("app-2").await;
    let mut agent = rig.agent("app-1").await;
    agent.send(facts([1])).await;
    agent.acked(1).await;
    let unit = "x".repeat(3 << 20);
    let kind = why502_proto::Kind::UnitStartLimitHit(v1::UnitStartLimitHit { unit });
    agent.send(vec![fact(2, 1, kind)]).await;
    assert_eq!(agent.ended().await.code(), Code::OutOfRange);
    other.send(facts([1])).await;
    other.acked(1).await;
    assert_eq!(rig.seqs("app-1").await, [1]);
}

#[tokio::test]
async fn more_than_the_credit_ends_the_stream() {
    let dir = TempDir::new().unwrap();
    let rig = Rig::plain(dir.path()).await;
    let mut agent = rig.agent("app-1").await;
    agent.send(facts(1..=513)).await;
    assert_eq!(agent.ended().await.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_clock_that_is_hours_off_is_corrected_and_told() {
    let dir = TempDir::new().unwrap();
    let rig = Rig::plain(dir.path()).await;
    let wrong = v1::Hello { realtime_us: now_us() - 5 * HOUR_US, ..hello("app-1") };
    let mut agent = Agent::connect(&rig.address, wrong).await.unwrap();
    let mut late = facts([1]);
    late[0].realtime_us -= 5 * HOUR_US;
    agent.send(late).await;
    agent.acked(1).await;
    let recent = v1::GetTimelineRequest { host: "app-1".into(), ..Default::default() };
    assert_eq!(rig.view.timeline(recent).await.unwrap().entries.len(), 1, "within 15 minutes");
    let hosts = rig.view.hosts().await.unwrap().hosts;
    assert!((hosts[0].clock_offset_us + 5 * HOUR_US).abs() < 10_000_000, "{hosts:?}");
    let warnings = rig.view.warnings();
    assert!(warnings.iter().any(|w| w.contains("the clock of app-1 is 1")), "{warnings:?}");
    assert!(warnings[0].contains("s behind"), "{warnings:?}");
}

#[tokio::test]
async fn a_ping_is_answered_and_measures_the_clock() {
    let dir = TempDir::new().unwrap();
    let rig = Rig::plain(dir.path()).await;
    let mut agent = rig.agent("app-1").await;
    let ping =
        v1::Ping { boottime_us: 1_000_000_500, realtime_us: now_us(), round_trip_us: Some(1_000) };
    agent.say(report_request::Message::Ping(ping)).await;
    let Some(report_response::Message::Pong(pong)) = agent.answer().await.unwrap() else {
        panic!()
    };
    assert_eq!(pong.boottime_us, 1_000_000_500);
    agent.send(facts([1])).await;
    agent.acked(1).await;
    assert_eq!(rig.view.hosts().await.unwrap().hosts[0].clock_tolerance_us, 1_000);
}

#[tokio::test]
async fn a_collector_that_stops_says_so_and_has_kept_everything() {
    let dir = TempDir::new().unwrap();
    let rig = Rig::plain(dir.path()).await;
    let mut agent = rig.agent("app-1").await;
    agent.send(facts(1..=100)).await;
    agent.acked(100).await;
    rig.stop().await;
    assert_eq!(agent.ended().await.code(), Code::Unavailable);
    let rig = Rig::plain(dir.path()).await;
    assert_eq!(rig.agent("app-1").await.welcome.stored_seq, 100);
}
