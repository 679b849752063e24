//! The gateway source beside a real nginx: what it declares, and what a failed request looks like.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "nginx/lab.rs"]
#[expect(unreachable_pub, reason = "a module of the test")]
mod lab;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use lab::{Nginx, free_port, watched};
use why502_agent::observe::Marks;

#[test]
fn refused_missing_closed_and_late() {
    let (dead, fin, late) = (free_port(), peer(b""), peer(b"wait"));
    let nginx = Nginx::start(&format!(
        "upstream pool {{ server 127.0.0.1:{dead}; server 127.0.0.1:{dead} backup; }}
         server {{ listen 127.0.0.1:PORT; server_name shop.example;
           location /api/ {{ proxy_pass http://127.0.0.1:{dead}; }}
           location = /fin {{ proxy_pass http://127.0.0.1:{fin}; }}
           location /late {{ proxy_pass http://127.0.0.1:{late}; proxy_read_timeout 1s; }}
           location /pool {{ proxy_pass http://pool; }}
           location ~ \\.php$ {{ fastcgi_pass unix:DIR/php.sock; }}
         }}"
    ));
    watched(&nginx.instance(), Marks::new(), async |facts| {
        let port = nginx.port;
        let declared =
            facts.wait(|text| text.starts_with("endpoint_declared") && text.contains(".php")).await;
        assert!(declared.contains("endpoint=unix:"), "{declared}");
        facts.wait(|text| text.starts_with("source_seeing") && text.contains("error.log")).await;

        assert_eq!(nginx.get("/api/x?token=secret"), "HTTP/1.1 502 Bad Gateway");
        let failed = facts.wait(|text| text.starts_with("request_failed")).await;
        assert_eq!(
            failed,
            format!(
                "request_failed gateway=nginx instance=CONF route=shop.example:{port}/api/ endpoint=127.0.0.1:{dead} \
                 phase=connect fault=econnrefused status=502 method=GET path=/api/x count=1 \
                 message=\"connect() failed (111: Connection refused)\""
            )
        );
        nginx.get("/fin");
        let failed =
            facts.wait(|text| text.starts_with("request_failed") && text.contains("=/fin")).await;
        assert!(failed.contains("phase=header fault=closed status=502"), "{failed}");
        assert!(failed.contains(&format!("route=shop.example:{port}=/fin")), "{failed}");

        nginx.get("/blog.php");
        let failed = facts.wait(|text| text.starts_with("request_failed")).await;
        assert!(failed.contains("phase=connect fault=enoent status=502"), "{failed}");
        assert!(failed.contains("endpoint=unix:/"), "{failed}");

        nginx.get("/pool");
        let failed = facts
            .wait(|text| {
                text.starts_with("request_failed")
                    && text.contains("/pool")
                    && text.contains("econnrefused")
            })
            .await;
        assert!(failed.contains("upstream=pool") && !failed.contains("status="), "{failed}");
        nginx.get("/pool");
        let failed = facts.wait(|text| text.contains("no_live_upstreams")).await;
        assert!(
            failed.contains("upstream=pool phase=select fault=no_live_upstreams status=502"),
            "{failed}"
        );

        nginx.get("/late");
        let failed =
            facts.wait(|text| text.starts_with("request_failed") && text.contains("/late")).await;
        assert!(failed.contains("phase=header fault=timeout status=504"), "{failed}");
    });
}

#[test]
fn a_reload_is_noticed_by_the_first_line_of_a_new_worker() {
    let (one, two) = (free_port(), free_port());
    let http = |port: u16| {
        format!(
            "server {{ listen 127.0.0.1:PORT; location / {{ proxy_pass http://127.0.0.1:{port}; }} }}"
        )
    };
    let nginx = Nginx::start(&http(one));
    watched(&nginx.instance(), Marks::new(), async |facts| {
        facts
            .wait(|text| {
                text.starts_with("endpoint_declared") && text.contains(&format!(":{one} "))
            })
            .await;
        facts.wait(|text| text.starts_with("source_seeing") && text.contains("error.log")).await;
        nginx.reload(&http(two));
        while !nginx_answers_from(&nginx, two) {}
        facts.wait(|text| text.starts_with("gateway_reloaded")).await;
        facts
            .wait(|text| {
                text.starts_with("endpoint_withdrawn") && text.contains(&format!(":{one}"))
            })
            .await;
        let failed = facts
            .wait(|text| text.starts_with("request_failed") && text.contains(&format!(":{two}")))
            .await;
        assert!(failed.contains(&format!("route=:{}/", nginx.port)), "{failed}");
        std::fs::write(nginx.path("nginx.conf"), "events {}\nhttp { server { listen 1\n").unwrap();
        nginx.signal(rustix::process::Signal::HUP);
        let refused = facts.wait(|text| text.starts_with("gateway_reloaded")).await;
        assert!(refused.contains("error=") && refused.contains("CONF:3"), "{refused}");
    });
}

/// Requests once; whether the error log names the port.
fn nginx_answers_from(nginx: &Nginx, port: u16) -> bool {
    nginx.get("/");
    std::fs::read_to_string(nginx.path("error.log")).unwrap().contains(&format!(":{port}/"))
}

/// A peer that reads a request, writes `answer` and closes; "wait" never answers.
fn peer(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 4096]);
            if answer == b"wait" {
                held.push(stream);
            } else {
                let _ = stream.write_all(answer);
            }
        }
    });
    port
}

#[test]
fn a_relayed_503_is_told_from_one_of_nginx_and_recovery_is_counted() {
    let (sick, dead) = (peer(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n"), free_port());
    let nginx = Nginx::start(&format!(
        "server {{ listen 127.0.0.1:PORT; server_name shop.example;
           location /sick {{ proxy_pass http://127.0.0.1:{sick}; }}
           location /dead {{ proxy_pass http://127.0.0.1:{dead}; }}
           location /own {{ return 503; }}
         }}"
    ));
    watched(&nginx.instance(), Marks::new(), async |facts| {
        facts.wait(|text| text.starts_with("source_seeing") && text.contains("access.log")).await;
        facts.wait(|text| text.starts_with("source_seeing") && text.contains("error.log")).await;
        nginx.get("/dead");
        let counts = facts.wait(|text| text.starts_with("request_counts")).await;
        assert!(counts.contains("/dead"), "{counts}");
        assert!(counts.contains("server_error=1 bad_gateway=1"), "{counts}");

        // The server says `return 503` elsewhere, so a 503 proves nothing here.
        nginx.get("/sick");
        let counts =
            facts.wait(|text| text.starts_with("request_counts") && text.contains("/sick")).await;
        assert!(!counts.contains("relayed"), "{counts}");

        nginx.reload(&format!(
            "log_format full escape=json '{{\"r\":\"$request\",\"s\":$status,\"a\":\"$upstream_addr\",\
             \"u\":\"$upstream_status\",\"h\":\"$upstream_header_time\",\"t\":\"$upstream_response_time\"}}';
             server {{ listen 127.0.0.1:PORT; server_name shop.example; access_log DIR/full.log full;
               location /sick {{ proxy_pass http://127.0.0.1:{sick}; }} }}"
        ));
        facts.wait(|text| text.starts_with("gateway_reloaded")).await;
        facts.wait(|text| text.starts_with("source_seeing") && text.contains("full.log")).await;
        nginx.get("/sick?x=1");
        let failed =
            facts.wait(|text| text.starts_with("request_failed") && text.contains("/sick")).await;
        assert!(failed.contains(&format!("endpoint=127.0.0.1:{sick}")), "{failed}");
        assert!(
            failed.contains("phase=header fault=relayed status=503 method=GET path=/sick"),
            "{failed}"
        );
        let counts = facts
            .wait(|text| text.starts_with("request_counts") && text.contains("relayed=1"))
            .await;
        assert!(counts.contains("unavailable=1"), "{counts}");
    });
}

#[test]
fn combined_format_and_silence_of_the_error_log_tell_relayed() {
    let sick = peer(b"HTTP/1.1 502 Sick\r\nContent-Length: 0\r\n\r\n");
    let http = format!(
        "server {{ listen 127.0.0.1:PORT; location / {{ proxy_pass http://127.0.0.1:{sick}; }} }}"
    );
    let nginx = Nginx::start(&http);
    watched(&nginx.instance(), Marks::new(), async |facts| {
        facts.wait(|text| text.starts_with("source_seeing") && text.contains("access.log")).await;
        facts.wait(|text| text.starts_with("source_seeing") && text.contains("error.log")).await;
        // At first the error log has not been followed for long enough to be sure.
        let mut unsure = 0;
        loop {
            nginx.get("/");
            let counts = facts.wait(|text| text.starts_with("request_counts")).await;
            if counts.contains("relayed=") {
                break;
            }
            unsure += 1;
        }
        assert!(unsure > 0);
        let failed = facts.wait(|text| text.starts_with("request_failed")).await;
        assert!(
            failed.contains(&format!("endpoint=127.0.0.1:{sick} phase=header fault=relayed")),
            "{failed}"
        );
    });
}

#[test]
fn an_unreadable_or_silent_error_log_is_blindness() {
    let nginx = Nginx::start("error_log DIR/crit.log crit; server { listen 127.0.0.1:PORT; }");
    watched(&nginx.instance(), Marks::new(), async |facts| {
        let blind = facts.wait(|text| text.starts_with("source_blinded")).await;
        assert!(blind.contains("crit.log") && blind.contains("not logged here"), "{blind}");
        nginx.reload("error_log DIR/crit.log; server { listen 127.0.0.1:PORT; }");
        facts.wait(|text| text.starts_with("source_seeing") && text.contains("crit.log")).await;
    });
}
