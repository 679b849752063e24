//! Who may speak for which host.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use tempfile::TempDir;
use tonic::Code;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use why502_collector::tls::{Current, Files};

use crate::rig::{Agent, Rig, facts, hello};

type Ca = CertifiedIssuer<'static, KeyPair>;

fn ca() -> Ca {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// Certificate and key of `names`, PEM.
fn issue(ca: &Ca, names: Vec<SanType>) -> (String, String) {
    let mut params = CertificateParams::new([]).unwrap();
    params.subject_alt_names = names;
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, ca).unwrap().pem(), key.serialize_pem())
}

fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().unwrap())
}

fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().unwrap())
}

fn write_files(dir: &Path, ca: &Ca) -> Files {
    let (cert, key) = issue(ca, vec![dns("collector")]);
    let files = Files {
        cert: dir.join("cert.pem"),
        key: dir.join("key.pem"),
        client_ca: dir.join("ca.pem"),
    };
    fs::write(&files.cert, cert).unwrap();
    fs::write(&files.key, key).unwrap();
    fs::write(&files.client_ca, ca.pem()).unwrap();
    files
}

async fn channel(
    rig: &Rig,
    ca: &Ca,
    identity: Option<(String, String)>,
) -> Result<Channel, tonic::transport::Error> {
    let mut tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(ca.pem()))
        .domain_name("collector");
    if let Some((cert, key)) = identity {
        tls = tls.identity(Identity::from_pem(cert, key));
    }
    let endpoint = Endpoint::from_shared(format!("https://{}", rig.address)).unwrap();
    endpoint.tls_config(tls).unwrap().connect().await
}

/// What a stream for `host` with a certificate of `names` is told.
async fn check(
    rig: &Rig,
    ca: &Ca,
    names: Vec<SanType>,
    host: &str,
) -> Result<Agent, (Code, String)> {
    let identity = (!names.is_empty()).then(|| issue(ca, names));
    let channel = channel(rig, ca, identity).await.unwrap();
    let agent = Agent::over(channel, hello(host)).await;
    agent.map_err(|status| (status.code(), status.message().to_owned()))
}

#[tokio::test]
async fn a_certificate_speaks_for_its_host_and_no_other() {
    let dir = TempDir::new().unwrap();
    let ca = ca();
    let current = Current::load(write_files(dir.path(), &ca)).unwrap();
    let rig = Rig::start(dir.path(), Some(current)).await;
    let mut agent = check(&rig, &ca, vec![dns("app-1")], "app-1").await.unwrap();
    agent.send(facts(1..=3)).await;
    agent.acked(3).await;
    assert!(rig.view.hosts().await.unwrap().hosts[0].tls);
    let spiffe = vec![uri("spiffe://example.org/why502/app-2")];
    check(&rig, &ca, spiffe, "app-2").await.unwrap();
    let (code, text) = check(&rig, &ca, vec![dns("app-3")], "app-4").await.err().unwrap();
    assert_eq!(code, Code::PermissionDenied);
    assert!(text.contains("app-3") && text.contains("app-4"), "{text}");
    let (code, text) = check(&rig, &ca, vec![], "app-4").await.err().unwrap();
    assert_eq!(code, Code::Unauthenticated, "{text}");
}

#[tokio::test]
async fn a_foreign_certificate_and_plaintext_get_nowhere() {
    let dir = TempDir::new().unwrap();
    let (ours, theirs) = (ca(), ca());
    let current = Current::load(write_files(dir.path(), &ours)).unwrap();
    let rig = Rig::start(dir.path(), Some(current)).await;
    let identity = issue(&theirs, vec![dns("app-1")]);
    let refused = match channel(&rig, &ours, Some(identity)).await {
        // With TLS 1.3 the client learns of the refusal at its first read.
        Ok(channel) => Agent::over(channel, hello("app-1")).await.is_err(),
        Err(_) => true,
    };
    assert!(refused);
    assert!(Agent::connect(&rig.address, hello("app-1")).await.is_err(), "plaintext");
    assert_eq!(rig.view.hosts().await.unwrap().hosts, []);
}

#[tokio::test]
async fn new_certificates_are_taken_and_bad_ones_are_not() {
    let dir = TempDir::new().unwrap();
    let (old, new) = (ca(), ca());
    let files = write_files(dir.path(), &old);
    let current = Current::load(files.clone()).unwrap();
    let rig = Rig::start(dir.path(), Some(current.clone())).await;
    let mut before = check(&rig, &old, vec![dns("app-1")], "app-1").await.unwrap();
    fs::write(&files.cert, "-----BEGIN NOTHING").unwrap();
    current.reload(true);
    let warning = rig.view.warnings().remove(0);
    assert!(warning.contains("cert.pem holds no certificate"), "{warning}");
    check(&rig, &old, vec![dns("app-2")], "app-2").await.unwrap();
    write_files(dir.path(), &new);
    current.reload(true);
    assert_eq!(rig.view.warnings(), [] as [String; 0]);
    check(&rig, &new, vec![dns("app-3")], "app-3").await.unwrap();
    assert!(channel(&rig, &old, None).await.is_err(), "the old server certificate is gone");
    before.send(facts([1])).await;
    before.acked(1).await;
}

#[test]
fn bad_files_are_named() {
    let dir = TempDir::new().unwrap();
    let (ca, other) = (ca(), ca());
    let files = write_files(dir.path(), &ca);
    let error = |files: &Files| Current::load(files.clone()).unwrap_err().to_string();
    fs::write(&files.key, "nothing").unwrap();
    assert!(error(&files).contains("key.pem holds no private key"));
    fs::write(&files.key, issue(&other, vec![dns("x")]).1).unwrap();
    assert!(error(&files).contains("cert.pem and its key do not"), "{}", error(&files));
    fs::remove_file(&files.client_ca).unwrap();
    write_files(dir.path(), &ca);
    fs::write(&files.client_ca, "").unwrap();
    assert!(error(&files).contains("ca.pem holds no certificate"));
}
