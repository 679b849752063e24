//! The store against real files.

use std::fs;

use tempfile::TempDir;
use why502_proto::{FactLine, Kind};

use super::*;
use crate::clock::now_us;

const DAY: i64 = 86_400_000_000;

fn open(dir: &Path) -> Result<Store, StoreError> {
    Store::open(dir, Retention::default(), &Metrics::default())
}

fn append(host: &str, boot: &str, at_us: i64, lines: &[(u64, &str)]) -> Append {
    let arrived = |(seq, text): &(u64, &str)| {
        let line: FactLine = format!("T+0.000 {host} {text}").parse().unwrap();
        let entity = Entity::of(&line.kind);
        let fact = v1::Fact { seq: *seq, kind: Some(line.kind), ..v1::Fact::default() };
        Arrived { seq: *seq, at_us, tolerance_us: 7, fact, entity }
    };
    Append {
        host: host.into(),
        boot: boot.into(),
        epoch: None,
        heard_us: at_us,
        facts: lines.iter().map(arrived).collect(),
    }
}

async fn seqs(store: &Store, host: &str) -> Vec<u64> {
    let query = TimelineQuery {
        host: Some(host.into()),
        since_us: i64::MIN,
        until_us: i64::MAX,
        limit: 1000,
    };
    store.facts(query).await.unwrap().iter().map(|seen| seen.id.seq).collect()
}

#[tokio::test]
async fn a_fact_is_taken_once_and_survives_a_new_start() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path()).unwrap();
    let facts = [(1, "oom_kill pid=1"), (2, "oom_kill pid=2")];
    assert_eq!(store.append(append("a", "b1", now_us(), &facts)).await.unwrap(), 2);
    assert_eq!(store.append(append("a", "b1", now_us(), &facts)).await.unwrap(), 2);
    assert_eq!(
        store.append(append("a", "b2", now_us(), &facts[..1])).await.unwrap(),
        1,
        "another boot"
    );
    store.close().await;
    drop(store);
    let store = open(dir.path()).unwrap();
    assert_eq!(seqs(&store, "a").await, [1, 2, 1]);
    let greeting = Greeting { host: "a".into(), boot: "b1".into(), ..Greeting::default() };
    assert_eq!(store.greet(greeting).await.unwrap().stored_seq, 2);
}

#[tokio::test]
async fn current_is_what_holds_now() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path()).unwrap();
    let lines = [
        (1, "listener_opened address=a:1 pid=7"),
        (2, "process_started pid=7 started_us=5"),
        (3, "process_exited pid=7 started_us=5"),
        (4, "listener_closed address=a:1 pid=7"),
    ];
    store.append(append("a", "b1", now_us(), &lines)).await.unwrap();
    let current = store.current("a").await.unwrap();
    assert_eq!(current.iter().map(|seen| seen.id.seq).collect::<Vec<_>>(), [4]);
    store.append(append("a", "b2", now_us(), &[(1, "agent_started version=1")])).await.unwrap();
    assert_eq!(store.current("a").await.unwrap(), [], "a new boot ends what held before");
}

#[tokio::test]
async fn retention_keeps_what_is_still_so() {
    let dir = TempDir::new().unwrap();
    let metrics = Metrics::default();
    let retention = Retention { age_max: Duration::from_secs(86_400), size_max_bytes: u64::MAX };
    let store = Store::open(dir.path(), retention, &metrics).unwrap();
    let old = now_us() - 3 * DAY;
    let lines = [
        (1, "listener_opened address=a:1 pid=7"),
        (2, "oom_kill pid=7"),
        (3, "listener_opened address=b:1 pid=8"),
        (4, "listener_closed address=b:1 pid=8"),
    ];
    store.append(append("a", "b1", old, &lines)).await.unwrap();
    store.append(append("a", "b1", now_us(), &[(5, "oom_kill pid=9")])).await.unwrap();
    store.close().await;
    drop(store);
    // The writer's first act is a step of retention.
    let store = Store::open(dir.path(), retention, &metrics).unwrap();
    store.append(append("a", "b1", now_us(), &[(6, "oom_kill pid=9")])).await.unwrap();
    store.close().await;
    assert_eq!(metrics.facts_retired.get(), 2);
    assert_eq!(seqs(&store, "a").await, [1, 4, 5, 6]);
    drop(store);
    let store = open(dir.path()).unwrap();
    assert_eq!(store.append(append("a", "b1", old, &lines)).await.unwrap(), 6);
    assert_eq!(seqs(&store, "a").await, [1, 4, 5, 6], "what was retired is not taken again");
}

#[tokio::test]
async fn size_is_bounded() {
    let dir = TempDir::new().unwrap();
    let metrics = Metrics::default();
    let retention = Retention { age_max: Duration::from_secs(u32::MAX.into()), size_max_bytes: 1 };
    let store = open(dir.path()).unwrap();
    let lines: Vec<_> = (1..=1500).map(|seq| (seq, "oom_kill pid=1 comm=app")).collect();
    store.append(append("a", "b1", now_us(), &lines)).await.unwrap();
    store.close().await;
    drop(store);
    let store = Store::open(dir.path(), retention, &metrics).unwrap();
    store.close().await;
    assert!(metrics.facts_retired.get() >= 1000, "{}", metrics.facts_retired.get());
    assert!(store.warnings().iter().any(|warning| warning.contains("oldest facts leave")));
}

#[tokio::test]
async fn a_damaged_database_is_set_aside() {
    for damage in [&b"this is no database, whatever its name says"[..], &[0u8; 8192][..]] {
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("why502.db"), damage).unwrap();
        let store = open(dir.path()).unwrap();
        assert!(store.warnings()[0].contains("set aside as"), "{:?}", store.warnings());
        assert_eq!(
            store.append(append("a", "b1", now_us(), &[(1, "oom_kill pid=1")])).await.unwrap(),
            1
        );
        let names = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name());
        let kept = names.filter(|name| name.to_string_lossy().contains(".corrupt-"));
        assert_eq!(kept.count(), 1);
    }
}

#[tokio::test]
async fn a_page_that_was_overwritten_is_found() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("why502.db");
    let store = open(dir.path()).unwrap();
    let lines: Vec<_> = (1..=500).map(|seq| (seq, "oom_kill pid=1 comm=app")).collect();
    store.append(append("a", "b1", now_us(), &lines)).await.unwrap();
    store.close().await;
    drop(store);
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())).unwrap();
    drop(connection);
    let mut bytes = fs::read(&path).unwrap();
    let half = bytes.len() / 2;
    bytes[half..].fill(0xa5);
    fs::write(&path, bytes).unwrap();
    let store = open(dir.path()).unwrap();
    assert!(store.warnings()[0].contains("set aside as"));
    assert_eq!(seqs(&store, "a").await, [] as [u64; 0]);
}

#[tokio::test]
async fn what_a_running_collector_found_damaged_is_set_aside_at_the_next_start() {
    let dir = TempDir::new().unwrap();
    drop(open(dir.path()).unwrap());
    schema::mark_suspect(dir.path());
    // The lock goes with the writer's last look at it.
    let store = open(dir.path()).unwrap();
    assert_eq!(store.warnings().len(), 1);
    store.close().await;
    drop(store);
    assert_eq!(open(dir.path()).unwrap().warnings(), [] as [String; 0], "once");
}

#[tokio::test]
async fn a_newer_schema_is_left_alone() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("why502.db");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("PRAGMA user_version = 99; CREATE TABLE future (x);").unwrap();
    drop(connection);
    let error = open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("newer why502 (schema 99, this one knows 1)"), "{error}");
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.query_row("SELECT count(*) FROM future", [], |_| Ok(())).unwrap();
}

#[tokio::test]
async fn one_collector_at_a_time() {
    let dir = TempDir::new().unwrap();
    let _first = open(dir.path()).unwrap();
    assert!(matches!(open(dir.path()), Err(StoreError::Locked { .. })));
}

#[tokio::test]
async fn unknown_kinds_keep_their_place() {
    let dir = TempDir::new().unwrap();
    let metrics = Metrics::default();
    let store = Store::open(dir.path(), Retention::default(), &metrics).unwrap();
    let mut batch = append("a", "b1", now_us(), &[(1, "oom_kill pid=1"), (2, "oom_kill pid=2")]);
    batch.facts[0].fact.kind = None::<Kind>;
    assert_eq!(store.append(batch).await.unwrap(), 2);
    assert_eq!(seqs(&store, "a").await, [2]);
    assert_eq!(metrics.facts_unknown.get(), 1);
}

#[tokio::test]
async fn incidents_are_found_by_state_and_gateway() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path()).unwrap();
    for (id, state, gateway) in [("1", "open", "g"), ("2", "resolved", "g"), ("3", "open", "h")] {
        let explanation = v1::Explanation {
            incident: id.into(),
            state: state.into(),
            gateway: gateway.into(),
            ..v1::Explanation::default()
        };
        let at = id.parse().unwrap();
        let row = IncidentRow { explanation, opened_us: at, updated_us: at, held_us: at };
        store.put_incident(row).await.unwrap();
    }
    let found = async |open, gateway: Option<&str>, limit| -> Vec<String> {
        let rows = store.incidents(open, gateway.map(str::to_owned), limit).await.unwrap();
        rows.into_iter().map(|row| row.explanation.incident).collect()
    };
    assert_eq!(found(None, None, 9).await, ["3", "2", "1"]);
    assert_eq!(found(Some(true), None, 9).await, ["3", "1"]);
    assert_eq!(found(Some(true), Some("g"), 9).await, ["1"]);
    assert_eq!(found(None, None, 1).await, ["3"]);
    assert_eq!(store.incident("2").await.unwrap().unwrap().explanation.state, "resolved");
    assert_eq!(store.incident("9").await.unwrap(), None);
}
