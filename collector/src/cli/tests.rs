//! The verbs against a collector that answers, one that is away, and one that is none.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use clap::Parser;
use expect_test::{Expect, expect};

use super::*;
use crate::http::served::Served;
use crate::text::sample;

#[derive(Debug, Parser)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

/// What the verb writes, or its error with exit code and hint.
fn answer(url: &str, line: &str) -> String {
    let words = ["why502"].into_iter().chain(line.split_whitespace());
    let url = (!line.starts_with("rules")).then_some(["--url", url]);
    let words = words.chain(url.into_iter().flatten());
    let command = Line::try_parse_from(words).unwrap().command;
    let mut buffer = vec![];
    let mut out = Output::to(&mut buffer, sample::NOW.parse().unwrap());
    let result = match command {
        Command::Explain(arguments) => explain::run(&arguments, &mut out),
        Command::Incidents(arguments) => incidents::run(&arguments, &mut out),
        Command::Timeline(arguments) => timeline::run(&arguments, &mut out),
        Command::Hosts(arguments) => hosts::run(&arguments, &mut out),
        Command::Watch(arguments) => watch::run(&arguments, &mut out),
        Command::Rules(arguments) => rules::run(&arguments, &mut out),
    };
    drop(out);
    match result {
        Ok(()) => String::from_utf8(buffer).unwrap(),
        Err(error) => format!("{error}\n{}\n{:?}\n", error.hint(), error.exit_code()),
    }
}

async fn ask(served: &Served, line: &'static str) -> String {
    let url = format!("http://{}", served.address);
    tokio::task::spawn_blocking(move || answer(&url, line)).await.unwrap()
}

#[tokio::test]
async fn verbs_answer() {
    let served = Served::full().await;
    let check = async |line, expect: Expect| expect.assert_eq(&ask(&served, line).await);
    check("incidents --all", expect![[r#"
        8    open      12:05:00  502 on gw-1 shop.example/cart: connections to 10.0.0.9:9000 are refused,
                                 and no agent is there to see why [not known]
                                 502 on gw-1 shop.example/cart -> 10.0.0.9:9000, 142 requests since 12:03:04
                                 UTC (connect, ECONNREFUSED)
        7    open      12:03:04  api.service on app-1 was OOM-killed at its 512 MiB limit; nothing listens
                                 on 10.0.0.7:8080 [proven]
                                 process.oom_killed.cgroup: 502 on gw-1 /api -> 10.0.0.7:8080, 142 requests
                                 since 12:03:04 UTC (connect, ECONNREFUSED)
        9    open      11:58:00  admin.service on app-2 listens on 127.0.0.1:8001 only; gw-1 asks
                                 10.0.0.8:8001 [would fail]
                                 listener.bound_to_loopback: Nothing has failed yet. Requests would: gw-1
                                 /admin -> 10.0.0.8:8001
        3    resolved  10:03:00  api.service on app-1 was OOM-killed at its 512 MiB limit; nothing listens
                                 on 10.0.0.7:8080 [proven]
                                 process.oom_killed.cgroup: 502 on gw-1 /api -> 10.0.0.7:8080, 142 requests
                                 since 12:03:04 UTC (connect, ECONNREFUSED)

        More about one: why502 explain ID
    "#]]).await;
    check("hosts", expect![[r#"
        app-1  silent  heard 4 min 3 s ago  agent 0.1.0  TLS  11 facts  clock 1 ms ahead (± under 1 ms)  10.0.0.7
          sees   process
          blind  journal since 11:53:05 UTC: no permission
                 to let it see: add why502-agent to group systemd-journal
        gw-1   silent  heard 4 min 3 s ago  agent 0.1.0  TLS  0 facts   clock 1 ms ahead (± under 1 ms)
    "#]]).await;
    check("timeline --host app-1 --since 2026-11-24T12:03:00Z", expect![[r#"
        2026-11-24 (UTC)
        12:03:03.978 app-1 oom_kill scope=cgroup unit=api.service pid=4121 anon_rss_kib=509952 limit_bytes=536870912
        12:03:03.980 app-1 process_exited pid=4121 unit=api.service comm=api
        12:03:03.981 app-1 listener_closed address=0.0.0.0:8080 pid=4121 unit=api.service
        12:03:04.020 app-1 memory_limit_reached cgroup=/system.slice/api.service unit=api.service
        12:03:04.030 app-1 process_exited pid=4121 unit=api.service comm=api signal=9
    "#]]).await;
    let newest = ask(&served, "explain").await;
    assert!(newest.ends_with("\n2 more open incidents: why502 incidents\n"), "{newest}");
    let chosen = ask(&served, "explain 7").await;
    assert!(chosen.contains("root cause: process.oom_killed.cgroup"), "{chosen}");
    let json = ask(&served, "explain 7 --format json").await;
    let json = serde_json::from_str(&json).unwrap();
    let read: why502_proto::v1::Explanation = why502_proto::from_json(&json).unwrap();
    assert_eq!(read, sample::oom_killed());
    served.stop().await;
}

#[tokio::test]
async fn nothing_wrong_is_an_answer() {
    let served = Served::empty().await;
    let text = ask(&served, "explain").await;
    assert!(text.starts_with("Nothing can be seen: no agent has reported yet."), "{text}");
    let json: serde_json::Value =
        serde_json::from_str(&ask(&served, "explain --format json").await).unwrap();
    assert_eq!(json["verdict"], "");
    served.stop().await;
}

#[tokio::test]
async fn errors_say_what_to_do() {
    let served = Served::full().await;
    let check = async |line, expect: Expect| expect.assert_eq(&ask(&served, line).await);
    check(
        "explain 999",
        expect![[r#"
        there is no incident "999"
        see what there is: why502 incidents --all, why502 hosts, or the page
        ExitCode(unix_exit_status(66))
    "#]],
    )
    .await;
    check(
        "explain --gateway gw-9",
        expect![[r#"
        there is no gateway "gw-9"
        see what there is: why502 incidents --all, why502 hosts, or the page
        ExitCode(unix_exit_status(66))
    "#]],
    )
    .await;
    check(
        "timeline --since gestern",
        expect![[r#"
        since="gestern" is not a time
        write since as 2026-11-24T12:50:00Z, or as 10m for ten minutes ago
        ExitCode(unix_exit_status(64))
    "#]],
    )
    .await;
    let rule = ask(&served, "rules oom_killed").await;
    let expected = "there is no rule \"oom_killed\"\ndid you mean process.oom_killed.cgroup or ";
    assert!(rule.starts_with(expected) && rule.contains("66"), "{rule}");
    served.stop().await;
}

/// A server that gives the same answer to everybody.
fn impostor(response: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _request = stream.read(&mut [0; 4096]);
            let _gone = stream.write_all(response.as_bytes());
        }
    });
    url
}

#[test]
fn whoever_is_no_collector_is_told_apart() {
    let check = |response, line, what: &str| {
        let text = answer(&impostor(response), line);
        assert!(text.contains(what) && text.contains("compare `why502 --version`"), "{text}");
        assert!(text.contains("76"), "{text}");
    };
    check("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n<html", "hosts", "no JSON");
    check("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "incidents", "status 404");
    check("HTTP/1.1 302 Found\r\nlocation: /x\r\ncontent-length: 0\r\n\r\n", "hosts", "status 302");
    let wrong_type = "HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"hosts\":7}";
    check(wrong_type, "hosts", "why502.v1.ListHostsResponse");
    let newer = "HTTP/1.1 200 OK\r\ncontent-length: 34\r\n\r\n{\"hosts\":[{\"host\":\"a\",\"mood\":1}]}\n\n";
    assert!(answer(&impostor(newer), "hosts").starts_with('a'), "what is newer is ignored");
}

#[test]
fn nobody_there() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    for verb in ["explain", "incidents", "timeline", "hosts", "watch"] {
        let text = answer(&url, verb);
        assert!(text.starts_with("cannot reach the collector at http://127.0.0.1:"), "{text}");
        assert!(text.contains("why502 serve") && text.contains("69"), "{text}");
    }
    assert!(answer("app-1:8503", "hosts").contains("write it as http://HOST:8503"));
}

#[test]
fn watch_says_what_changed_and_not_what_counted_on() {
    let (mut text, mut json) = (vec![], vec![]);
    let mut counted = sample::oom_killed();
    if let Some(symptom) = &mut counted.symptom {
        symptom.count += 1;
    }
    let mut resolved = counted.clone();
    resolved.state = "resolved".into();
    resolved.resolved = "2026-11-24T12:07:00.000Z".into();
    let changes = [sample::oom_killed(), sample::oom_killed(), counted, resolved];
    for (buffer, json) in [(&mut text, false), (&mut json, true)] {
        let mut out = Output::to(buffer, sample::NOW.parse().unwrap());
        let mut watch = watch::Watch::new(json);
        for change in &changes {
            watch.incident(change.clone(), &mut out).unwrap();
        }
    }
    let text = String::from_utf8(text).unwrap();
    assert_eq!(text.matches("api.service on app-1 was OOM-killed").count(), 2, "{text}");
    assert!(text.ends_with(
        "12:07:00.000  Resolved after 3 min 55 s, 143 requests: api.service on app-1 was \
         OOM-killed at its 512 MiB limit; nothing listens on 10.0.0.7:8080 (incident 7)\n"
    ));
    assert_eq!(String::from_utf8(json).unwrap().lines().count(), 3);
}

/// A proxy in front of a collector, which asks for a certificate of its CA; and the files for whoever asks it.
fn proxy(dir: &std::path::Path) -> String {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    use rustls::pki_types::PrivateKeyDer;
    use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let issue = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new([name.to_owned()]).unwrap();
        (params.signed_by(&key, &ca).unwrap(), key)
    };
    let (own, own_key) = issue("localhost");
    let (client, client_key) = issue("operator");
    std::fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
    std::fs::write(dir.join("cert.pem"), client.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), client_key.serialize_pem()).unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(ca.der().clone()).unwrap();
    let clients = rustls::server::WebPkiClientVerifier::builder_with_provider(
        roots.into(),
        std::sync::Arc::clone(&provider),
    );
    let key = PrivateKeyDer::try_from(own_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(clients.build().unwrap())
        .with_single_cert(vec![own.der().clone()], key)
        .unwrap();
    let config = std::sync::Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("https://localhost:{}", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let connection = ServerConnection::new(std::sync::Arc::clone(&config)).unwrap();
            let mut stream = StreamOwned::new(connection, stream);
            let _request = stream.read(&mut [0; 4096]);
            let response =
                "HTTP/1.1 200 OK\r\ncontent-length: 24\r\n\r\n{\"hosts\":[{\"host\":\"a\"}]}";
            let _refused = stream.write_all(response.as_bytes());
        }
    });
    url
}

#[test]
fn https_trusts_a_ca_and_shows_a_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let url = proxy(dir.path());
    let path = |name: &str| dir.path().join(name).display().to_string();
    let (ca, cert, key) = (path("ca.pem"), path("cert.pem"), path("key.pem"));
    let good = answer(&url, &format!("hosts --tls-ca {ca} --tls-cert {cert} --tls-key {key}"));
    assert!(good.starts_with("a "), "{good}");
    let nobody = answer(&url, &format!("hosts --tls-ca {ca}"));
    let stranger = answer(&url, &format!("hosts --tls-ca {cert}"));
    for refused in [nobody, stranger] {
        assert!(refused.starts_with("cannot reach the collector at https://"), "{refused}");
        assert!(refused.contains("--tls-ca") && refused.contains("69"), "{refused}");
    }
    let no_pem = answer(&url, &format!("hosts --tls-ca {ca} --tls-cert {cert} --tls-key {ca}"));
    assert!(no_pem.contains("https cannot be used") && no_pem.contains("78"), "{no_pem}");
    let absent = answer(&url, "hosts --tls-ca /nowhere.pem");
    assert!(absent.contains("give PEM files with --tls-ca") && absent.contains("78"), "{absent}");
}
