//! From facts on the wire to incidents that somebody is told of.

use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::broadcast;
use tokio::time::timeout;
use why502_collector::clock::now_us;
use why502_collector::store::{Append, Arrived};
use why502_collector::view::Change;
use why502_proto::{Entity, Kind, v1};

use crate::rig::{OWN_NAME, Rig};

const DECLARED: &str = "
    T+0.000 gw gateway_seen gateway=nginx instance=/etc/nginx/nginx.conf version=1.22.1 pid=50
    T+0.000 gw host_address address=10.0.0.1 interface=eth0
    T+0.000 gw endpoint_declared gateway=nginx instance=/etc/nginx/nginx.conf route=shop/api endpoint=10.0.0.7:8080 addresses=10.0.0.7:8080 protocol=http
    T+0.001 gw source_seeing source=gateway";
const SERVING: &str = "
    T+0.000 app-1 host_address address=10.0.0.7 interface=eth0
    T+0.000 app-1 unit_state unit=api.service load=loaded active=active sub=running main_pid=4121
    T+0.000 app-1 process_started pid=4121 unit=api.service started_us=900000000 existing=true
    T+0.000 app-1 listener_opened address=0.0.0.0:8080 pid=4121 unit=api.service existing=true
    T+0.001 app-1 source_seeing source=process
    T+0.001 app-1 source_seeing source=listener
    T+0.001 app-1 source_seeing source=unit
    T+0.001 app-1 source_seeing source=memory
    T+0.001 app-1 source_seeing source=kernel_log
    T+0.001 app-1 source_seeing source=journal
    T+0.001 app-1 source_seeing source=host";
const KILLED: &str = "
    T+1.000 app-1 oom_kill scope=cgroup unit=api.service pid=4121 limit_bytes=536870912 witness=kernel_log
    T+1.001 app-1 process_exited pid=4121 unit=api.service started_us=900000000 signal=9 main=true listeners=0.0.0.0:8080
    T+1.001 app-1 listener_closed address=0.0.0.0:8080 pid=4121 unit=api.service last=true";
const REFUSED: &str = "
    T+1.100 gw request_failed gateway=nginx instance=/etc/nginx/nginx.conf route=shop/api endpoint=10.0.0.7:8080 phase=connect fault=econnrefused status=502 count=1";

/// The next change of an incident that `meant` accepts.
async fn incident(
    changes: &mut broadcast::Receiver<Change>,
    meant: impl Fn(&v1::Explanation) -> bool,
) -> v1::Explanation {
    let next = async {
        loop {
            if let Change::Incident(explanation) = changes.recv().await.unwrap()
                && meant(&explanation)
            {
                return explanation.as_ref().clone();
            }
        }
    };
    timeout(Duration::from_secs(20), next).await.expect("the incident changes in time")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_is_one_incident_from_its_first_failure_to_its_end() {
    let dir = TempDir::new().unwrap();
    let rig = Rig::plain(dir.path()).await;
    let (mut gw, mut app) = (rig.agent("gw").await, rig.agent("app-1").await);
    gw.tell(1, DECLARED).await;
    app.tell(1, SERVING).await;
    let mut changes = rig.view.changes();
    app.tell(12, KILLED).await;
    let sent = Instant::now();
    gw.tell(5, REFUSED).await;
    let opened = incident(&mut changes, |e| e.verdict == "explained").await;
    let took = sent.elapsed();
    assert_eq!(opened.root_cause, "process.oom_killed.cgroup", "{opened:#?}");
    assert_eq!((opened.state.as_str(), opened.kind.as_str()), ("open", "observed"));
    assert_eq!((opened.route.as_str(), opened.endpoint.as_str()), ("shop/api", "10.0.0.7:8080"));
    assert!(took < Duration::from_secs(1), "{took:?}");
    // The store has it before anybody is told.
    assert_eq!(rig.view.incident(&opened.incident).await.unwrap(), opened);

    // The same failure again and again is the same incident.
    for seq in 6..16 {
        gw.tell(seq, REFUSED).await;
    }
    let asked = v1::ListIncidentsRequest { state: "open".into(), ..Default::default() };
    assert_eq!(rig.view.incidents(asked.clone()).await.unwrap().incidents.len(), 1);

    // A collector that is started anew goes on with it.
    drop((gw, app));
    rig.stop().await;
    let rig = Rig::plain(dir.path()).await;
    assert_eq!(rig.view.incidents(asked).await.unwrap().incidents[0].incident, opened.incident);
    let mut changes = rig.view.changes();
    let (mut gw, mut app) = (rig.agent("gw").await, rig.agent("app-1").await);
    app.tell(
        15,
        "T+2.000 app-1 process_started pid=4200 unit=api.service started_us=1002000000
         T+2.000 app-1 unit_state unit=api.service load=loaded active=active sub=running main_pid=4200 restarts=1
         T+2.010 app-1 listener_opened address=0.0.0.0:8080 pid=4200 unit=api.service",
    )
    .await;
    gw.tell(16, "T+3.000 gw request_counts gateway=nginx instance=/etc/nginx/nginx.conf route=shop/api endpoint=10.0.0.7:8080 period_ms=1000 success=5").await;
    let resolved = incident(&mut changes, |e| e.state == "resolved").await;
    assert_eq!(resolved.incident, opened.incident);
    assert_eq!(resolved.root_cause, opened.root_cause, "it keeps its words");
    assert!(!resolved.resolved.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn words_that_come_late_explain_the_same_incident() {
    let dir = TempDir::new().unwrap();
    let rig = Rig::plain(dir.path()).await;
    let (mut gw, mut app) = (rig.agent("gw").await, rig.agent("app-1").await);
    gw.tell(1, DECLARED).await;
    app.tell(1, SERVING).await;
    let mut changes = rig.view.changes();
    gw.tell(5, REFUSED).await;
    let first = incident(&mut changes, |_| true).await;
    assert_ne!(first.root_cause, "process.oom_killed.cgroup", "nobody has seen it yet");
    app.tell(12, KILLED).await;
    let then = incident(&mut changes, |e| e.root_cause == "process.oom_killed.cgroup").await;
    assert_eq!(then.incident, first.incident);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_on_one_endpoint_does_not_hold_up_another() {
    let dir = TempDir::new().unwrap();
    let rig = Rig::plain(dir.path()).await;
    let (mut gw, mut app) = (rig.agent("gw").await, rig.agent("app-1").await);
    gw.tell(1, DECLARED).await;
    app.tell(1, SERVING).await;
    let failed = |route: u64| {
        format!(
            "T+1.000 gw request_failed gateway=nginx instance=/etc/nginx/nginx.conf route=r{route} endpoint=10.0.0.9:1 phase=connect fault=timeout status=504 count=1\n"
        )
    };
    for batch in 0..10 {
        gw.tell(5 + batch * 200, &(0..200).map(failed).collect::<String>()).await;
    }
    let mut changes = rig.view.changes();
    app.tell(12, KILLED).await;
    let sent = Instant::now();
    gw.tell(2005, REFUSED).await;
    let opened = incident(&mut changes, |e| e.endpoint == "10.0.0.7:8080").await;
    assert!(sent.elapsed() < Duration::from_secs(2), "{:?}", sent.elapsed());
    assert_eq!(opened.gateway, "gw");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_answers_without_an_incident() {
    let dir = TempDir::new().unwrap();
    let rig = Rig::plain(dir.path()).await;
    let nobody = rig.view.explain(v1::ExplainRequest::default()).await;
    assert_eq!(nobody.unwrap_err().to_string(), "there is no gateway yet");
    let mut gw = rig.agent("gw").await;
    let mut app = rig.agent("app-1").await;
    gw.tell(1, DECLARED).await;
    app.tell(1, SERVING).await;
    let healthy = rig.view.explain(v1::ExplainRequest::default()).await.unwrap();
    assert_eq!((healthy.gateway.as_str(), healthy.verdict.as_str()), ("gw", ""));
    assert!(healthy.headline.contains("nothing is wrong"), "{healthy:?}");
    app.tell(12, KILLED).await;
    gw.tell(5, REFUSED).await;
    let asked = v1::ExplainRequest { route: "shop/api".into(), ..Default::default() };
    assert_eq!(rig.view.explain(asked).await.unwrap().root_cause, "process.oom_killed.cgroup");
    let bad = v1::ExplainRequest { at: "yesterday".into(), ..Default::default() };
    assert!(rig.view.explain(bad).await.unwrap_err().to_string().contains("is not a time"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_silent_agent_said_last_proves_nothing() {
    let dir = TempDir::new().unwrap();
    let rig = Rig::plain(dir.path()).await;
    let (mut gw, mut app) = (rig.agent("gw").await, rig.agent("app-1").await);
    gw.tell(1, DECLARED).await;
    app.tell(1, SERVING).await;
    let kind = Kind::AgentSilent(v1::AgentSilent { host: "app-1".into(), ended: false });
    let (at_us, entity) = (now_us(), Entity::of(&kind));
    let fact = v1::Fact { seq: 1, realtime_us: at_us, kind: Some(kind), ..Default::default() };
    let facts = vec![Arrived { seq: 1, at_us, tolerance_us: 0, fact, entity }];
    let (host, boot) = (OWN_NAME.to_owned(), "collector".to_owned());
    rig.store.append(Append { host, boot, epoch: None, heard_us: at_us, facts }).await.unwrap();
    let mut changes = rig.view.changes();
    gw.tell(5, REFUSED).await;
    let asked = rig.view.explain(v1::ExplainRequest::default()).await.unwrap();
    let opened = incident(&mut changes, |_| true).await;
    for answer in [asked, opened] {
        assert_eq!(answer.verdict, "unknown", "{answer:#?}");
        assert!(answer.missing.iter().any(|missing| missing.host == "app-1"), "{answer:#?}");
        assert!(!answer.hosts.contains(&OWN_NAME.to_owned()));
    }
}
