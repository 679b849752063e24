//! The HTTP side on a store with the sample incidents, for tests of everything that asks it.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, oneshot, watch};
use why502_proto::{Entity, FactLine, v1};

use super::{App, STALL_MAX, connection, router};
use crate::config::Config;
use crate::ingest::Presences;
use crate::metrics::Metrics;
use crate::store::{Append, Arrived, Greeting, IncidentRow, Store};
use crate::text::sample;
use crate::view::{self, Change, View};

/// The facts that the sample explanations cite, and what their hosts can see.
const FACTS: &[(u64, &str)] = &[
    (10, "T-700.000 app-1 agent_started version=0.1.0 kernel=6.1.0 distribution=\"Debian 12\""),
    (12, "T-600.000 app-1 listener_opened address=0.0.0.0:8080 pid=4121 unit=api.service"),
    (13, "T-599.000 app-1 source_seeing source=process"),
    (
        14,
        "T-599.000 app-1 source_blinded source=journal reason=\"no permission\" grant=\"add why502-agent to group systemd-journal\"",
    ),
    (15, "T-599.000 app-1 host_address address=10.0.0.7 interface=eth0"),
    (170, "T-24.000 app-1 memory_pressure some_permyriad=4100"),
    (
        179,
        "T-0.142 app-1 oom_kill scope=cgroup unit=api.service pid=4121 anon_rss_kib=509952 limit_bytes=536870912",
    ),
    (180, "T-0.140 app-1 process_exited pid=4121 unit=api.service comm=api"),
    (181, "T-0.139 app-1 listener_closed address=0.0.0.0:8080 pid=4121 unit=api.service"),
    (182, "T-0.100 app-1 memory_limit_reached cgroup=/system.slice/api.service unit=api.service"),
    (184, "T-0.090 app-1 process_exited pid=4121 unit=api.service comm=api signal=9"),
];

/// A collector's HTTP side on a store of its own, until dropped.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    pub(crate) changes: broadcast::Sender<Change>,
    stop: Option<oneshot::Sender<()>>,
    served: tokio::task::JoinHandle<io::Result<()>>,
    _dir: tempfile::TempDir,
}

impl Served {
    /// An empty store.
    pub(crate) async fn empty() -> Self {
        Self::start(false, STALL_MAX).await
    }

    /// The samples, with their facts.
    pub(crate) async fn full() -> Self {
        Self::start(true, STALL_MAX).await
    }

    pub(crate) async fn start(full: bool, stall_max: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Metrics::default();
        let store = Store::open(dir.path(), Config::default().retention(), &metrics).unwrap();
        if full {
            fill(&store).await;
        }
        let changes = view::changes();
        let presences = Presences::new(changes.clone());
        let view = View::new(
            store,
            presences,
            metrics,
            changes.clone(),
            vec!["streams are not encrypted".into()],
            None,
            "why502-collector",
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (stopping, stops) = watch::channel(false);
        let app = App { stall_max, ..App::new(view, address, stops) };
        let shutdown = async move {
            let _dropped_or_sent = stopped.await;
        };
        let served = tokio::spawn(connection::accept(router(app), listener, stopping, shutdown));
        Self { address, changes, stop: Some(stop), served, _dir: dir }
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        let host = self.address.to_string();
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await
    }

    pub(crate) async fn ask(&self, request: &str) -> Answer {
        let (address, request) = (self.address, request.to_owned());
        let asked = tokio::task::spawn_blocking(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut bytes = vec![];
            stream.read_to_end(&mut bytes).unwrap();
            Answer::parse(&bytes)
        });
        asked.await.unwrap()
    }

    pub(crate) async fn stop(mut self) {
        drop(self.stop.take());
        self.served.await.unwrap().unwrap();
    }
}

async fn fill(store: &Store) {
    let zero_us = sample::NOW.parse::<jiff::Timestamp>().unwrap().as_microsecond() - 243_880_000;
    for (host, version) in [("app-1", "0.1.0"), ("gw-1", "0.1.0")] {
        let greeting = Greeting {
            host: host.into(),
            boot: "b1".into(),
            agent_version: version.into(),
            peer: "10.0.0.7:40112".into(),
            tls: true,
            offset_us: 1_200,
            heard_us: zero_us,
        };
        store.greet(greeting).await.unwrap();
    }
    let arrived = |(seq, line): &(u64, &str)| {
        let line: FactLine = line.parse().unwrap();
        Arrived {
            seq: *seq,
            at_us: zero_us + line.offset_us,
            tolerance_us: 500,
            entity: Entity::of(&line.kind),
            fact: v1::Fact { seq: *seq, kind: Some(line.kind), ..v1::Fact::default() },
        }
    };
    let facts = FACTS.iter().map(arrived).collect();
    let append =
        Append { host: "app-1".into(), boot: "b1".into(), epoch: None, heard_us: zero_us, facts };
    store.append(append).await.unwrap();
    let mut past = sample::oom_killed();
    past.incident = "3".into();
    past.state = "resolved".into();
    past.resolved = "2026-11-24T10:05:00.000Z".into();
    past.opened = "2026-11-24T10:03:00.000Z".into();
    for explanation in [sample::oom_killed(), sample::unknown(), sample::predicted(), past] {
        let at = |text: &str| text.parse().map_or(0, jiff::Timestamp::as_microsecond);
        let opened_us = at(&explanation.opened);
        let row = IncidentRow { explanation, opened_us, updated_us: opened_us, held_us: opened_us };
        store.put_incident(row).await.unwrap();
    }
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Self { status, head: head.to_lowercase(), body: body.to_owned() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    pub(crate) fn has(&self, header: &str) -> bool {
        self.head.lines().any(|line| line == header)
    }
}
