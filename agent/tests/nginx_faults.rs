//! Every kind of failure that loopback can bring about, provoked for real: what the fact says and what the client saw.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "nginx/lab.rs"]
#[expect(unreachable_pub, dead_code, reason = "a module of several tests")]
mod lab;

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use lab::{Nginx, watched};
use why502_agent::observe::Marks;

/// Path of the request, inside of its location, status line, and part of the fact.
type Case = (&'static str, String, &'static str, &'static str);

fn cases(dir: &Path) -> Vec<Case> {
    let unix = |name: &str| format!("proxy_pass http://unix:{}/{name}:/;", dir.display());
    let tcp = |answer: &'static [u8]| format!("proxy_pass http://127.0.0.1:{};", peer(answer));
    let fastcgi = peer(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let long = [b"HTTP/1.1 200 OK\r\nX-Long: ".as_slice(), &[b'a'; 20_000], b"\r\n\r\n"].concat();
    vec![
        (
            "/missing",
            unix("missing.sock"),
            "502 Bad Gateway",
            "phase=connect fault=enoent status=502",
        ),
        (
            "/stale",
            unix("stale.sock"),
            "502 Bad Gateway",
            "phase=connect fault=econnrefused status=502",
        ),
        (
            "/denied",
            unix("private/app.sock"),
            "502 Bad Gateway",
            "phase=connect fault=eacces status=502",
        ),
        ("/backlog", unix("full.sock"), "502 Bad Gateway", "phase=connect fault=eagain status=502"),
        ("/fin", tcp(b""), "502 Bad Gateway", "phase=header fault=closed status=502"),
        ("/rst", tcp(b"reset"), "502 Bad Gateway", "phase=header fault=econnreset status=502"),
        (
            "/big",
            tcp(long.leak()),
            "502 Bad Gateway",
            "phase=header fault=header_too_big status=502",
        ),
        (
            "/bad",
            tcp(b"HTTP/1.1 200 OK\r\nA\0B: x\r\n\r\n"),
            "502 Bad Gateway",
            "phase=header fault=header_invalid",
        ),
        (
            "/cut",
            tcp(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nx"),
            "200 OK",
            "phase=body fault=closed method",
        ),
        (
            "/fastcgi",
            format!("fastcgi_pass 127.0.0.1:{fastcgi};"),
            "502 Bad Gateway",
            "phase=header fault=wrong_protocol status=502",
        ),
        (
            "/tls",
            format!("proxy_pass https://127.0.0.1:{};", peer(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
            "502 Bad Gateway",
            "phase=tls fault=wrong_protocol status=502",
        ),
        (
            "/late",
            format!("proxy_read_timeout 1s; {}", tcp(b"wait")),
            "504 Gateway Time-out",
            "phase=header fault=timeout status=504",
        ),
        (
            "/queue",
            format!("proxy_connect_timeout 1s; proxy_pass http://127.0.0.1:{};", full_queue()),
            "504 Gateway Time-out",
            "phase=connect fault=timeout status=504",
        ),
        (
            "/dns",
            "set $name app.invalid; proxy_pass http://$name;".to_owned(),
            "502 Bad Gateway",
            "phase=resolve fault=no_resolver status=502",
        ),
        (
            "/bind",
            format!("proxy_bind 192.0.2.1; {}", tcp(b"")),
            "500 Internal Server Error",
            "phase=connect fault=eaddrnotavail status=500",
        ),
    ]
}

#[test]
fn every_failure_has_its_phase_fault_and_status() {
    let sockets = tempfile::Builder::new().prefix("agent-nginx-").tempdir().unwrap();
    let dir = sockets.path();
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755)).unwrap();
    drop(bound(&dir.join("stale.sock")));
    std::fs::create_dir(dir.join("private")).unwrap();
    std::fs::set_permissions(dir.join("private"), std::fs::Permissions::from_mode(0o700)).unwrap();
    let _denied = bound(&dir.join("private/app.sock"));
    let full = bound(&dir.join("full.sock"));
    rustix::net::listen(&full, 0).unwrap();
    // One connection more than the backlog is taken.
    let _waiting = UnixStream::connect(dir.join("full.sock")).unwrap();

    let cases = cases(dir);
    let locations: String = cases
        .iter()
        .map(|(path, inside, ..)| format!("location = {path} {{ {inside} }}\n"))
        .collect();
    let nginx = Nginx::start(&format!("server {{ listen 127.0.0.1:PORT; {locations} }}"));
    watched(&nginx.instance(), Marks::new(), async |facts| {
        facts.wait(|text| text.starts_with("source_seeing") && text.contains("error.log")).await;
        for (path, _, status, expected) in &cases {
            let answered = nginx.get(path);
            assert!(answered.ends_with(status), "{path}: {answered}");
            let failed = facts
                .wait(|text| {
                    text.starts_with("request_failed") && text.contains(&format!("path={path} "))
                })
                .await;
            assert!(failed.contains(expected), "{failed}");
            assert!(failed.contains(&format!("route=:{}={path} ", nginx.port)), "{failed}");
        }
    });
}

/// A socket that everybody may connect to.
fn bound(path: &Path) -> UnixListener {
    let listener = UnixListener::bind(path).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).unwrap();
    listener
}

/// A listener whose accept queue is full, so that the kernel drops what knocks.
fn full_queue() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&listener, 0).unwrap();
    let address = listener.local_addr().unwrap();
    let waiting = TcpStream::connect(address).unwrap();
    Box::leak(Box::new((listener, waiting)));
    address.port()
}

/// A peer that reads, writes `answer` and closes; "wait" never answers, "reset" closes with RST.
fn peer(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            // Unread input makes the kernel send RST.
            let _ = stream.read(&mut vec![0; if answer == b"reset" { 1 } else { 4096 }]);
            match answer {
                b"wait" => held.push(stream),
                b"reset" => {}
                _ => drop(stream.write_all(answer)),
            }
        }
    });
    port
}
