//! A collector in this process, and agents that speak to it over real sockets.

use std::path::Path;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use why502_collector::clock::now_us;
use why502_collector::incident::Incidents;
use why502_collector::ingest::{self, Door, Presences};
use why502_collector::metrics::Metrics;
use why502_collector::store::{Retention, Store};
use why502_collector::tls;
use why502_collector::view::{self, View};
use why502_proto::v1::ingest_client::IngestClient;
use why502_proto::v1::{self, report_request, report_response};
use why502_proto::{FactLine, Kind};

/// Nothing here takes this long unless it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Name under which the collector itself writes facts.
pub(crate) const OWN_NAME: &str = "why502-collector";

pub(crate) struct Rig {
    pub(crate) address: String,
    pub(crate) store: Store,
    pub(crate) view: View,
    stop: watch::Sender<bool>,
}

impl Rig {
    pub(crate) async fn start(dir: &Path, tls: Option<tls::Current>) -> Self {
        let metrics = Metrics::default();
        let store = Store::open(dir, Retention::default(), &metrics).unwrap();
        let changes = view::changes();
        let presences = Presences::new(changes.clone());
        let (stop, stopping) = watch::channel(false);
        let view = View::new(
            store.clone(),
            presences.clone(),
            metrics.clone(),
            changes.clone(),
            Vec::new(),
            tls.clone(),
            OWN_NAME,
        );
        let own_name = OWN_NAME.to_owned();
        let commits = store.commits();
        let incidents = Incidents::restore(store.clone(), metrics, changes, own_name.clone());
        tokio::spawn(incidents.await.unwrap().run(commits, stopping.clone()));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let door = Door { store: store.clone(), presences, view: view.clone(), own_name, stopping };
        tokio::spawn(async move { ingest::serve(door, listener, tls).await.unwrap() });
        Self { address, store, view, stop }
    }

    pub(crate) async fn plain(dir: &Path) -> Self {
        Self::start(dir, None).await
    }

    pub(crate) async fn stop(self) {
        self.stop.send(true).unwrap();
        self.store.close().await;
    }

    pub(crate) async fn agent(&self, host: &str) -> Agent {
        Agent::connect(&self.address, hello(host)).await.unwrap()
    }

    /// Stored facts of a host, by seq.
    pub(crate) async fn seqs(&self, host: &str) -> Vec<u64> {
        let request =
            v1::GetTimelineRequest { host: host.into(), limit: 10_000, ..Default::default() };
        let entries = self.view.timeline(request).await.unwrap().entries;
        entries.iter().map(|entry| entry.id.rsplit('/').next().unwrap().parse().unwrap()).collect()
    }
}

/// A hello that nothing is wrong with; the host was booted 1,000 s ago.
pub(crate) fn hello(host: &str) -> v1::Hello {
    v1::Hello {
        host: host.into(),
        boot_id: "0b7a1c2e-7d53-4a2f-9f55-1a2b3c4d5e6f".into(),
        agent_version: "0.1.0".into(),
        protocol_min: 1,
        protocol_max: 1,
        boottime_us: 1_000_000_000,
        realtime_us: now_us(),
    }
}

pub(crate) struct Agent {
    pub(crate) welcome: v1::Welcome,
    boot_id: String,
    requests: mpsc::Sender<v1::ReportRequest>,
    responses: Streaming<v1::ReportResponse>,
}

impl Agent {
    pub(crate) async fn connect(address: &str, hello: v1::Hello) -> Result<Self, Status> {
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await;
        Self::over(channel.map_err(|error| Status::unavailable(error.to_string()))?, hello).await
    }

    pub(crate) async fn over(channel: Channel, hello: v1::Hello) -> Result<Self, Status> {
        let boot_id = hello.boot_id.clone();
        let message = report_request::Message::Hello(hello);
        let (requests, mut responses) = open(channel, message).await?;
        match responses.message().await?.and_then(|response| response.message) {
            Some(report_response::Message::Welcome(welcome)) => {
                Ok(Self { welcome, boot_id, requests, responses })
            }
            other => panic!("no welcome but {other:?}"),
        }
    }

    pub(crate) async fn send(&self, facts: Vec<v1::Fact>) -> bool {
        let batch = v1::Batch { boot_id: self.boot_id.clone(), facts };
        self.say(report_request::Message::Batch(batch)).await
    }

    pub(crate) async fn say(&self, message: report_request::Message) -> bool {
        self.requests.send(v1::ReportRequest { message: Some(message) }).await.is_ok()
    }

    /// Sends facts in text form, the first as `seq`, and waits until they are stored.
    pub(crate) async fn tell(&mut self, seq: u64, lines: &str) {
        let lines: Vec<_> = lines.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
        let last = seq + lines.len() as u64 - 1;
        let facts = lines.iter().zip(seq..).map(|(line, seq)| {
            let line: FactLine = line.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
            fact(seq, 1_000_000_000 + line.offset_us, line.kind)
        });
        self.send(facts.collect()).await;
        self.acked(last).await;
    }

    /// The next answer.
    pub(crate) async fn answer(&mut self) -> Result<Option<report_response::Message>, Status> {
        let message =
            timeout(PATIENCE, self.responses.message()).await.expect("an answer in time")?;
        Ok(message.and_then(|response| response.message))
    }

    /// Waits until everything up to `seq`, or more, is acknowledged.
    pub(crate) async fn acked_at_least(&mut self, seq: u64) {
        loop {
            match self.answer().await.unwrap() {
                Some(report_response::Message::Ack(ack)) if ack.stored_seq >= seq => return,
                Some(_) => {}
                None => panic!("the stream ended before {seq} was acknowledged"),
            }
        }
    }

    /// Waits until everything up to `seq`, and no more, is acknowledged.
    pub(crate) async fn acked(&mut self, seq: u64) {
        loop {
            match self.answer().await.unwrap() {
                Some(report_response::Message::Ack(ack)) if ack.stored_seq >= seq => {
                    assert_eq!(ack.stored_seq, seq);
                    return;
                }
                Some(_) => {}
                None => panic!("the stream ended before {seq} was acknowledged"),
            }
        }
    }

    /// Waits for the stream's end, and why.
    pub(crate) async fn ended(&mut self) -> Status {
        loop {
            match self.answer().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::new(Code::Ok, ""),
                Err(status) => return status,
            }
        }
    }
}

type Ends = (mpsc::Sender<v1::ReportRequest>, Streaming<v1::ReportResponse>);

/// A stream that begins with `first`.
pub(crate) async fn open(channel: Channel, first: report_request::Message) -> Result<Ends, Status> {
    let (requests, outgoing) = mpsc::channel(64);
    requests.send(v1::ReportRequest { message: Some(first) }).await.unwrap();
    let mut client = IngestClient::new(channel);
    let responses = client.report(ReceiverStream::new(outgoing)).await?.into_inner();
    Ok((requests, responses))
}

/// A fact at a boot time; its wall time is now.
pub(crate) fn fact(seq: u64, boottime_us: i64, kind: Kind) -> v1::Fact {
    let boottime_us = u64::try_from(boottime_us).unwrap();
    v1::Fact { seq, boottime_us, realtime_us: now_us(), kind: Some(kind) }
}

/// Facts that say nothing in particular.
pub(crate) fn facts(seqs: impl IntoIterator<Item = u64>) -> Vec<v1::Fact> {
    let kind =
        |seq| Kind::UnitStartLimitHit(v1::UnitStartLimitHit { unit: format!("u{seq}.service") });
    seqs.into_iter().map(|seq| fact(seq, 1_000_000_000, kind(seq))).collect()
}
