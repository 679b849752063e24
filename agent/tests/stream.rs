//! The stream against a collector made of a few lines: what it is sent, in which order, and when.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify, mpsc};
use tokio::task::LocalSet;
use tokio::time::timeout;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status, Streaming};
use why502_agent::spool::{Spool, SpoolConfig};
use why502_agent::stream::{self, Shared, StreamConfig, TlsFiles};
use why502_proto::Kind;
use why502_proto::v1::ingest_server::{Ingest, IngestServer};
use why502_proto::v1::{
    Ack, AgentStopped, Batch, Fact, ReportRequest, ReportResponse, Welcome, report_request,
    report_response,
};

/// Long beside what anything here takes, short beside a person's patience.
const PATIENCE: Duration = Duration::from_secs(20);

type Answers = mpsc::Sender<Result<ReportResponse, Status>>;

/// One connection, as the test sees it: what the agent says, and the way to answer.
struct Connection {
    said: Streaming<ReportRequest>,
    answers: Answers,
}

impl Connection {
    async fn next(&mut self) -> Option<report_request::Message> {
        timeout(PATIENCE, self.said.message()).await.unwrap().ok()??.message
    }

    /// The next batch; pings in between are left alone.
    async fn batch(&mut self) -> Batch {
        loop {
            match self.next().await.unwrap() {
                report_request::Message::Batch(batch) => return batch,
                report_request::Message::Ping(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn answer(&self, message: report_response::Message) {
        self.answers.send(Ok(ReportResponse { message: Some(message) })).await.unwrap();
    }

    async fn welcome(&mut self, stored_seq: u64, credit_facts: u32) {
        let Some(report_request::Message::Hello(hello)) = self.next().await else { panic!() };
        assert_eq!((hello.host.as_str(), hello.boot_id.as_str()), ("app-1", "boot-b"));
        let welcome = Welcome { protocol: 1, stored_seq, credit_facts, ..Welcome::default() };
        self.answer(report_response::Message::Welcome(welcome)).await;
    }

    async fn ack(&self, boot: &str, stored_seq: u64) {
        self.answer(report_response::Message::Ack(Ack { boot_id: boot.into(), stored_seq })).await;
    }
}

#[derive(Clone)]
struct Collector {
    connections: mpsc::Sender<Result<Connection, Code>>,
    refuse: bool,
}

#[tonic::async_trait]
impl Ingest for Collector {
    type ReportStream = ReceiverStream<Result<ReportResponse, Status>>;

    async fn report(
        &self,
        request: Request<Streaming<ReportRequest>>,
    ) -> Result<Response<Self::ReportStream>, Status> {
        if self.refuse {
            let _ = self.connections.send(Err(Code::PermissionDenied)).await;
            return Err(Status::permission_denied("the certificate names another host"));
        }
        let (answers, receiver) = mpsc::channel(64);
        let _ = self.connections.send(Ok(Connection { said: request.into_inner(), answers })).await;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

async fn collector(refuse: bool) -> (SocketAddr, mpsc::Receiver<Result<Connection, Code>>) {
    let (connections, receiver) = mpsc::channel(8);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = IngestServer::new(Collector { connections, refuse });
    tokio::spawn(
        Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener)),
    );
    (address, receiver)
}

fn spool(dir: &Path, boot: &str) -> Spool {
    Spool::open(&SpoolConfig { dir: dir.to_owned(), bytes_max: 64 << 20 }, boot).unwrap()
}

fn facts(count: usize, length: usize) -> Vec<(Option<Fact>, Option<why502_agent::observe::Mark>)> {
    let kind = Kind::AgentStopped(AgentStopped { reason: "x".repeat(length) });
    vec![(Some(Fact { kind: Some(kind), ..Fact::default() }), None); count]
}

fn agent(address: SocketAddr, spool: Spool) -> Arc<Shared> {
    let shared = Arc::new(Shared { spool: Mutex::new(spool), appended: Notify::new() });
    let config = StreamConfig {
        url: format!("http://{address}"),
        host: "app-1".into(),
        boot: "boot-b".into(),
        tls: TlsFiles::default(),
    };
    tokio::task::spawn_local(stream::run(config, Arc::clone(&shared)));
    shared
}

async fn next(connections: &mut mpsc::Receiver<Result<Connection, Code>>) -> Connection {
    timeout(PATIENCE, connections.recv()).await.unwrap().unwrap().unwrap()
}

fn seqs(batch: &Batch) -> (u64, u64) {
    (batch.facts.first().unwrap().seq, batch.facts.last().unwrap().seq)
}

#[tokio::test(flavor = "current_thread")]
async fn goes_on_behind_what_is_stored_and_sends_the_rest_again() {
    let dir = tempfile::tempdir().unwrap();
    let (address, mut connections) = collector(false).await;
    let test = async {
        let mut waiting = spool(dir.path(), "boot-b");
        waiting.append(&mut facts(10, 5));
        let shared = agent(address, waiting);
        let mut first = next(&mut connections).await;
        first.welcome(4, 4096).await;
        assert_eq!(seqs(&first.batch().await), (5, 10), "stored facts are not sent again");
        first.ack("boot-b", 7).await;
        shared.spool.lock().await.append(&mut facts(1, 5));
        shared.appended.notify_one();
        assert_eq!(seqs(&first.batch().await), (11, 11), "a new fact leaves at once");
        drop(first);
        let mut second = next(&mut connections).await;
        second.welcome(7, 4096).await;
        assert_eq!(seqs(&second.batch().await), (8, 11), "what was not stored comes again");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(flavor = "current_thread")]
async fn keeps_to_the_credit_and_to_the_bounds_of_a_batch() {
    let dir = tempfile::tempdir().unwrap();
    let (address, mut connections) = collector(false).await;
    let test = async {
        let mut waiting = spool(dir.path(), "boot-b");
        waiting.append(&mut facts(1000, 5));
        waiting.append(&mut facts(40, 60_000));
        let _shared = agent(address, waiting);
        let mut link = next(&mut connections).await;
        link.welcome(0, 700).await;
        assert_eq!(seqs(&link.batch().await), (1, 512));
        assert_eq!(seqs(&link.batch().await), (513, 700), "the credit is used up");
        let more = timeout(Duration::from_millis(300), link.said.message()).await;
        let ping =
            |said: &ReportRequest| matches!(said.message, Some(report_request::Message::Ping(_)));
        assert!(more.map_or(true, |said| ping(&said.unwrap().unwrap())), "nothing beyond it");
        link.ack("boot-b", 512).await;
        assert_eq!(seqs(&link.batch().await), (701, 1017), "300 small and 17 large: at most 1 MiB");
        link.ack("boot-b", 1017).await;
        let mut last = 1017;
        while last < 1040 {
            let batch = link.batch().await;
            assert!(prost::Message::encoded_len(&batch) <= 1 << 20);
            assert_eq!(seqs(&batch).0, last + 1);
            last = seqs(&batch).1;
        }
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(flavor = "current_thread")]
async fn an_earlier_boot_is_delivered_first_and_under_its_own_name() {
    let dir = tempfile::tempdir().unwrap();
    let (address, mut connections) = collector(false).await;
    let test = async {
        spool(dir.path(), "boot-a").append(&mut facts(3, 5));
        let mut waiting = spool(dir.path(), "boot-b");
        waiting.append(&mut facts(2, 5));
        let shared = agent(address, waiting);
        let mut link = next(&mut connections).await;
        link.welcome(0, 4096).await;
        let batch = link.batch().await;
        assert_eq!((batch.boot_id.as_str(), seqs(&batch)), ("boot-a", (1, 3)));
        link.ack("boot-a", 3).await;
        let batch = link.batch().await;
        assert_eq!((batch.boot_id.as_str(), seqs(&batch)), ("boot-b", (1, 2)));
        assert_eq!(shared.spool.lock().await.boots(), ["boot-b"], "what is stored is forgotten");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(flavor = "current_thread")]
async fn an_earlier_boot_that_cannot_be_read_does_not_hold_up_the_running_one() {
    let dir = tempfile::tempdir().unwrap();
    let (address, mut connections) = collector(false).await;
    let test = async {
        spool(dir.path(), "boot-a").append(&mut facts(3, 5));
        let mut waiting = spool(dir.path(), "boot-b");
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if path.to_string_lossy().contains("boot-a") {
                std::fs::remove_file(path).unwrap();
            }
        }
        waiting.append(&mut facts(2, 5));
        let _shared = agent(address, waiting);
        let mut link = next(&mut connections).await;
        link.welcome(0, 4096).await;
        let batch = link.batch().await;
        assert_eq!((batch.boot_id.as_str(), seqs(&batch)), ("boot-b", (1, 2)));
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(flavor = "current_thread")]
async fn a_refused_agent_keeps_its_facts_and_tries_slowly() {
    let dir = tempfile::tempdir().unwrap();
    let (address, mut connections) = collector(true).await;
    let test = async {
        let mut waiting = spool(dir.path(), "boot-b");
        waiting.append(&mut facts(3, 5));
        let shared = agent(address, waiting);
        let refused = timeout(PATIENCE, connections.recv()).await.unwrap().unwrap();
        assert_eq!(refused.err(), Some(Code::PermissionDenied));
        let again = timeout(Duration::from_millis(300), connections.recv()).await;
        assert!(again.is_err(), "not again at once");
        assert_eq!(shared.spool.lock().await.read_after("boot-b", 0, 9, 1 << 20).len(), 3);
    };
    LocalSet::new().run_until(test).await;
}
