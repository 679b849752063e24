//! The handlers as a client meets them: over a socket, with a view on a real store.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use why502_proto::{from_json, to_json, v1};

use super::routes;
use super::served::Served;
use crate::text::sample;
use crate::view::Change;

#[tokio::test]
async fn the_api_gives_the_messages_of_the_view() {
    let served = Served::full().await;
    let list = served.get("/api/v1/incidents?state=open&limit=10").await.json();
    let ids: Vec<_> =
        list["incidents"].as_array().unwrap().iter().map(|i| &i["incident"]).collect();
    assert_eq!(ids, ["8", "7", "9"], "newest first");
    let one = served.get("/api/v1/incidents/7").await.json();
    assert_eq!(from_json::<v1::Explanation>(&one).unwrap(), sample::oom_killed());
    let hosts = served.get("/api/v1/hosts").await.json();
    assert_eq!(hosts["hosts"][0]["host"], "app-1");
    let timeline = served
        .get("/api/v1/timeline?host=app-1&since=2026-11-24T12:03:00Z&until=2026-11-24T12:04:00Z")
        .await
        .json();
    assert_eq!(timeline["entries"][0]["kind"], "oom_kill");
    assert_eq!(timeline["entries"].as_array().unwrap().len(), 5);
    let rules = served.get("/api/v1/rules").await.json();
    assert_eq!(rules["rules"].as_array().unwrap().len(), why502_explain::catalog().count());
    let rule = served.get("/api/v1/rules/process.oom_killed.cgroup").await.json();
    assert_eq!(rule["id"], "process.oom_killed.cgroup");
    assert_eq!(served.get("/health").await.json()["status"], "ok");
    assert!(served.get("/metrics").await.body.ends_with("# EOF\n"));
    served.stop().await;
}

#[tokio::test]
async fn what_is_wrong_is_said_with_what_to_do() {
    let served = Served::full().await;
    let check = async |path: &str, status: u16, detail: &str| {
        let answer = served.get(path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        assert!(answer.has("content-type: application/problem+json"), "{path}: {}", answer.head);
        let problem = answer.json();
        assert_eq!(problem["status"], status);
        assert!(problem["detail"].as_str().unwrap().contains(detail), "{path}: {problem}");
        assert!(!problem["hint"].as_str().unwrap().is_empty());
    };
    check("/api/v1/incidents?limit=x", 400, "limit=").await;
    check("/api/v1/incidents?state=broken", 400, "state=").await;
    check("/api/v1/incidents?staet=open", 400, "staet").await;
    check("/api/v1/incidents/%ff", 400, "path").await;
    check("/api/v1/incidents/999", 404, "incident").await;
    check("/api/v1/timeline?since=x", 400, "since=").await;
    check("/api/v1/timeline?limit=10001", 400, "limit=").await;
    check("/api/v1/explain?at=%00", 400, "at").await;
    check("/api/v1/explain?gateway=nobody", 404, "gateway").await;
    check("/api/v1/rules/oom", 404, "rule").await;
    check("/api/v1/hosts?x=1", 400, "x").await;
    check("/api/v1/events?facts=maybe", 400, "facts=").await;
    check("/api/v1/nonsense", 404, "/api/v1/nonsense").await;
    served.stop().await;
}

#[tokio::test]
async fn every_answer_has_the_headers_and_nothing_can_be_written() {
    let served = Served::full().await;
    for path in ["/", "/incidents/7", "/api/v1/hosts", "/nowhere", "/assets/why502.js"] {
        let answer = served.get(path).await;
        assert!(answer.has("x-content-type-options: nosniff"), "{path}");
        assert!(answer.head.contains("content-security-policy: default-src 'none';"), "{path}");
        assert!(!answer.head.contains("unsafe"), "{path}");
    }
    let host = served.address;
    let ask = async |line: &str| {
        served.ask(&format!("{line} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await
    };
    let head = ask("HEAD /incidents/7").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let post = ask("POST /api/v1/incidents").await;
    assert_eq!(post.status, 405);
    assert!(post.has("allow: get,head"), "{}", post.head);
    let foreign =
        served.ask("GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n").await;
    assert_eq!(foreign.status, 421);
    assert!(!foreign.body.contains("api.service"));
    let long = format!("GET /{} HTTP/1.1\r\nHost: {host}\r\n\r\n", "a".repeat(100_000));
    assert!([414, 431].contains(&served.ask(&long).await.status));
    served.stop().await;
}

#[tokio::test]
async fn pages_show_what_the_api_says() {
    let served = Served::full().await;
    let check = async |path: &str, words: &[&str]| {
        let answer = served.get(path).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.body);
        for word in words {
            assert!(answer.body.contains(word), "{path} lacks {word:?}: {}", answer.body);
        }
    };
    check("/", &["3 open incidents", "OOM-killed", "would fail", "cause not known", "Resolved"])
        .await;
    check("/", &["<strong>Warning:</strong> streams are not encrypted"]).await;
    let facts = ["root cause", "139 ms earlier", "oom_kill scope=cgroup unit=api.service pid=4121"];
    check("/incidents/7", &facts).await;
    check("/incidents/7", &["systemctl status api.service", "Check on app-1"]).await;
    check("/incidents/8", &["Not known, because", "10.0.0.9: no agent"]).await;
    check("/hosts", &["add why502-agent to group systemd-journal", "1 ms ahead"]).await;
    check("/hosts/app-1?since=2026-11-24T12:00:00Z", &["listener_closed", "pid=4121"]).await;
    check("/rules", &["process.oom_killed.cgroup"]).await;
    check("/rules/process.oom_killed.cgroup", &["What to do"]).await;
    for path in ["/incidents/999", "/hosts/nobody", "/rules/nothing", "/nowhere"] {
        let answer = served.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert!(answer.has("content-type: text/html; charset=utf-8"), "{path}: {}", answer.head);
    }
    served.stop().await;
    let served = Served::empty().await;
    assert!(served.get("/").await.body.contains("why502-agent run --collector"));
    served.stop().await;
}

/// Reads from `stream` until `until` is there.
fn read_until(stream: &mut TcpStream, until: &str) -> String {
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut text = String::new();
    let mut bytes = [0; 4096];
    let mut looked_at = 0;
    while !text[looked_at..].contains(until) {
        // What was looked for may begin in the last bytes; everything here is ASCII.
        looked_at = text.len().saturating_sub(until.len());
        let n = stream.read(&mut bytes).unwrap();
        assert!(n > 0, "ended before {until:?}");
        text.push_str(std::str::from_utf8(&bytes[..n]).unwrap());
    }
    text
}

async fn listen(served: &Served, path: &str) -> TcpStream {
    let (address, path) = (served.address, path.to_owned());
    let connected = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").unwrap();
        read_until(&mut stream, "event: hello");
        stream
    });
    connected.await.unwrap()
}

#[tokio::test]
async fn events_arrive_and_end_with_the_server() {
    let served = Served::full().await;
    let mut stream = listen(&served, "/api/v1/events").await;
    served.changes.send(Change::Fact(Arc::default())).unwrap();
    served.changes.send(Change::Host("app-1".into())).unwrap();
    served.changes.send(Change::Incident(Arc::new(sample::oom_killed()))).unwrap();
    let read = tokio::task::spawn_blocking(move || {
        // Keys are in alphabetical order.
        let text = read_until(&mut stream, "\"verdict\":\"explained\"}");
        (text, stream)
    });
    let (text, mut stream) = read.await.unwrap();
    assert!(text.contains("event: host\ndata: {\"host\":\"app-1\"}"), "{text}");
    assert!(text.contains("event: incident\ndata: {"), "{text}");
    assert!(!text.contains("event: fact"), "only for whoever asks");
    served.stop().await;
    let rest = tokio::task::spawn_blocking(move || {
        let mut rest = vec![];
        stream.read_to_end(&mut rest).map(|_| ())
    });
    rest.await.unwrap().unwrap();
}

#[tokio::test]
async fn followers_are_bounded_and_leave_room() {
    let served = Served::full().await;
    let mut followers = vec![];
    for _ in 0..super::FOLLOWERS_MAX {
        followers.push(listen(&served, "/api/v1/events").await);
    }
    let refused = served.get("/api/v1/events").await;
    assert_eq!((refused.status, served.get("/health").await.status), (503, 200));
    assert!(refused.json()["hint"].as_str().unwrap().starts_with("close some"));
    drop(followers);
    served.stop().await;
}

/// More than any buffer on the way holds.
async fn flood(served: &Served) {
    let mut entry = v1::TimelineEntry { text: "x".repeat(20_000), ..v1::TimelineEntry::default() };
    for id in 0..6_000 {
        entry.id = id.to_string();
        if served.changes.send(Change::Fact(Arc::new(entry.clone()))).is_err() {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_client_that_falls_behind_is_told_to_reload() {
    let served = Served::start(true, Duration::from_secs(60)).await;
    let mut stream = listen(&served, "/api/v1/events?facts=true").await;
    flood(&served).await;
    // It reads on only now: what was under way comes first, then the order to reload.
    let read = tokio::task::spawn_blocking(move || {
        read_until(&mut stream, "event: reload\ndata: {\"missed\":");
    });
    read.await.unwrap();
    served.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_is_cut_off() {
    let served = Served::start(true, Duration::from_millis(50)).await;
    let stream = listen(&served, "/api/v1/events?facts=true").await;
    flood(&served).await;
    // The receiver is given back when the client's connection is closed.
    while served.changes.receiver_count() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(stream);
    served.stop().await;
}

fn openapi() -> Value {
    serde_json::from_str(include_str!("../../assets/openapi.json")).unwrap()
}

#[test]
fn openapi_has_every_route_and_no_other() {
    let openapi = openapi();
    let documented: BTreeSet<_> = openapi["paths"].as_object().unwrap().keys().collect();
    let routes = routes();
    let served: BTreeSet<String> = routes.iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(documented, served.iter().collect());
    for (path, operations) in openapi["paths"].as_object().unwrap() {
        let operations: Vec<_> = operations.as_object().unwrap().keys().collect();
        let expected = if path == "/api/v1/failures" { "post" } else { "get" };
        assert_eq!(operations, [expected], "{path}");
    }
}

/// Panics where `value` is not what `schema` says; every field must be documented, and every required one there.
fn conforms(value: &Value, schema: &Value, root: &Value, place: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let target = root.pointer(name.trim_start_matches('#'));
        return conforms(value, target.unwrap_or_else(|| panic!("{name}")), root, place);
    }
    match schema["type"].as_str() {
        None => assert_eq!(value, &schema["const"], "{place}"),
        Some("string") => assert!(value.is_string(), "{place}: {value}"),
        Some("boolean") => assert!(value.is_boolean(), "{place}: {value}"),
        Some("integer") => assert!(value.is_i64() || value.is_u64(), "{place}: {value}"),
        Some("array") => {
            for (at, item) in value.as_array().unwrap().iter().enumerate() {
                conforms(item, &schema["items"], root, &format!("{place}[{at}]"));
            }
        }
        Some("object") => {
            let value = value.as_object().unwrap_or_else(|| panic!("{place}: {value}"));
            let Some(documented) = schema["properties"].as_object() else { return };
            for name in schema["required"].as_array().unwrap() {
                assert!(value.contains_key(name.as_str().unwrap()), "{place} lacks {name}");
            }
            for (name, value) in value {
                let place = format!("{place}.{name}");
                let schema =
                    documented.get(name).unwrap_or_else(|| panic!("{place}: not documented"));
                conforms(value, schema, root, &place);
            }
        }
        Some(other) => panic!("{place} has a type {other} that this test does not know"),
    }
}

#[tokio::test]
async fn answers_are_as_documented() {
    let served = Served::full().await;
    let openapi = openapi();
    for (path, operations) in openapi["paths"].as_object().unwrap() {
        if operations["get"].is_null() {
            continue;
        }
        let documented = &operations["get"]["responses"]["200"]["content"];
        let (kind, body) = documented.as_object().unwrap().iter().next().unwrap();
        if kind == "text/event-stream" {
            continue;
        }
        let id = if path.contains("rules") { "process.oom_killed.cgroup" } else { "7" };
        let path = path.replace("{id}", id).replace("{host}", "app-1");
        let path = match path.as_str() {
            "/api/v1/timeline" => "/api/v1/timeline?since=2026-11-24T11:00:00Z".to_owned(),
            // The samples' gateway has no facts of its own: no answer but this.
            "/api/v1/explain" => {
                assert_eq!(served.get(&path).await.status, 404);
                continue;
            }
            _ => path,
        };
        let answer = served.get(&path).await;
        assert_eq!(answer.status, 200, "{path}");
        assert!(answer.head.contains(&format!("content-type: {kind}")), "{path}: {}", answer.head);
        if kind == "application/json" {
            conforms(&answer.json(), &body["schema"], &openapi, &path);
        }
    }
    let problem = served.get("/api/v1/incidents?limit=x").await.json();
    conforms(&problem, &openapi["components"]["schemas"]["Problem"], &openapi, "problem");
    served.stop().await;
}

async fn push(served: &Served, gateway: &str, kind: &str, body: &str) -> super::served::Answer {
    let host = served.address.to_string();
    let length = body.len();
    served
        .ask(&format!(
            "POST /api/v1/failures?gateway={gateway} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\n\
             Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        ))
        .await
}

#[tokio::test]
async fn failures_are_pushed_as_documented_or_as_lines() {
    let served = Served::full().await;
    let failure = r#"[{"route":"shop.example/","endpoint":"10.0.0.7:8080","phase":"connect","error":"ECONNREFUSED",
        "status":502,"path":"/x?token=1","count":3}]"#;
    let answer = push(&served, "edge", "application/json", failure).await;
    assert_eq!(
        (answer.status, answer.json()["stored"].as_u64()),
        (200, Some(1)),
        "{}",
        answer.body
    );
    let line = r#"{"EdgeResponseStatus":521,"OriginResponseStatus":0,"OriginIP":"10.0.0.7","ClientRequestURI":"/x"}"#;
    let lines = format!("{line}\nnobody knows this\n{line}\n");
    let answer = push(&served, "edge", "application/x-ndjson", &lines).await;
    assert_eq!(answer.json(), serde_json::json!({"stored": 2, "unknown_lines": 1}));
    let told = served.get("/api/v1/timeline?host=edge&since=1h").await.json();
    let texts: Vec<&str> = told["entries"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|entry| entry["text"].as_str())
        .collect();
    assert_eq!(texts.len(), 4, "three and the gateway itself: {told}");
    assert_eq!(served.get("/api/v1/explain?gateway=edge").await.status, 200);
    assert!(
        told.to_string().contains("ECONNREFUSED") || told.to_string().contains("econnrefused"),
        "{told}"
    );
    assert!(!told.to_string().contains("token"), "{told}");
    let hosts = served.get("/api/v1/hosts").await.body;
    assert!(!hosts.contains("\"edge\""), "no agent speaks for it: {hosts}");
    served.stop().await;
}

#[tokio::test]
async fn what_is_not_pushed() {
    let served = Served::full().await;
    let check = async |gateway: &str, kind: &str, body: &str, status: u16, word: &str| {
        let answer = push(&served, gateway, kind, body).await;
        assert_eq!(answer.status, status, "{}", answer.body);
        assert!(answer.body.contains(word), "{}", answer.body);
    };
    check("app-1", "application/json", "[]", 409, "agent").await;
    check("why502-collector", "application/json", "[]", 409, "agent").await;
    check("a/b", "application/json", "[]", 400, "gateway").await;
    check("edge", "text/plain", "[]", 415, "Content-Type").await;
    check("edge", "application/json", "{}", 400, "openapi").await;
    check("edge", "application/json", r#"[{"phase":"moon"}]"#, 400, "moon").await;
    check("edge", "application/json", r#"[{"at":"noon"}]"#, 400, "noon").await;
    check("edge", "application/json", r#"[{"typo":1}]"#, 400, "typo").await;
    served.stop().await;
}

#[test]
fn documented_messages_are_those_of_the_contract() {
    let openapi = openapi();
    let check = |value: Value, name: &str| {
        conforms(&value, &openapi["components"]["schemas"][name], &openapi, name);
    };
    check(to_json(&sample::oom_killed()).unwrap(), "Explanation");
    check(to_json(&v1::Explanation::default()).unwrap(), "Explanation");
    check(to_json(&v1::TimelineEntry::default()).unwrap(), "TimelineEntry");
    let sources = vec![v1::HostSource::default()];
    check(to_json(&v1::Host { sources, ..v1::Host::default() }).unwrap(), "Host");
}
