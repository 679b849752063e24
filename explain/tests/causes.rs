//! What is said of small timelines: a cause, its look-alikes, and the same with the deciding source blind.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use why502_explain::{Question, Seen, Snapshot, explain, questions};
use why502_proto::{FactId, FactLine};

/// 2026-01-01, the moment T of every timeline.
const T_US: i64 = 1_767_225_600_000_000;

/// Both hosts see; app-1 has 10.0.0.7.
const SIGHT: &str = "
T-900.000 gw-1 agent_started version=1
T-900.000 gw-1 source_seeing source=listener
T-900.000 gw-1 source_seeing source=process
T-900.000 gw-1 source_seeing source=memory
T-900.000 gw-1 source_seeing source=unit
T-900.000 gw-1 host_address address=10.0.0.1 interface=eth0
T-900.000 gw-1 endpoint_declared gateway=nginx instance=/etc/nginx/nginx.conf route=shop/ \
endpoint=10.0.0.7:8080 addresses=10.0.0.7:8080 file=/etc/nginx/conf.d/shop.conf line=4 read_timeout_ms=60000
T-900.000 app-1 agent_started version=1
T-900.000 app-1 source_seeing source=listener
T-900.000 app-1 source_seeing source=process
T-900.000 app-1 source_seeing source=memory
T-900.000 app-1 source_seeing source=unit
T-900.000 app-1 host_address address=10.0.0.7 interface=eth0
";

const SERVED: &str = "
T-800.000 app-1 unit_state unit=api.service load=loaded active=active sub=running main_pid=4121 \
memory_max_bytes=536870912 existing=true
T-800.000 app-1 listener_opened address=0.0.0.0:8080 pid=4121 unit=api.service comm=api queue_limit=128
";

const REFUSED: &str = "
T+0.000 gw-1 request_failed gateway=nginx instance=/etc/nginx/nginx.conf route=shop/ endpoint=10.0.0.7:8080 \
phase=connect fault=econnrefused method=GET path=/ count=1
";

const DIED: &str = "
T-0.400 app-1 listener_closed address=0.0.0.0:8080 pid=4121 unit=api.service last=true
T-0.401 app-1 process_exited pid=4121 unit=api.service signal=9 main=true lifetime_ms=700000 witness=pidfd
T-0.100 app-1 unit_state unit=api.service load=loaded active=failed sub=failed result=signal \
exit_code=killed exit_status=9
";

fn snapshot(parts: &[&str], now_s: i64) -> Snapshot {
    let text = parts.concat();
    let facts = text.lines().filter(|line| !line.is_empty()).enumerate().map(|(seq, line)| {
        let fact: FactLine = line.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
        Seen {
            id: FactId { host: fact.host, boot: "b".into(), seq: seq as u64 + 1 },
            at_us: T_US + fact.offset_us,
            tolerance_us: 1000,
            boottime_us: u64::try_from(1_000_000_000 + fact.offset_us).unwrap(),
            kind: fact.kind,
        }
    });
    Snapshot::new(facts.collect(), T_US + now_s * 1_000_000)
}

/// `verdict confidence: chain`, symptom side first.
#[track_caller]
fn check(parts: &[&str], expected: &str) {
    let question = Question {
        gateway: "gw-1".into(),
        route: "shop/".into(),
        endpoint: "10.0.0.7:8080".into(),
    };
    check_question(&question, parts, 2, expected);
}

#[track_caller]
fn check_question(question: &Question, parts: &[&str], now_s: i64, expected: &str) {
    let mut all = vec![SIGHT];
    all.extend_from_slice(parts);
    let snapshot = snapshot(&all, now_s);
    assert!(questions(&snapshot).contains(question));
    let said = explain(&snapshot, question).map_or_else(
        || "nothing wrong".to_owned(),
        |explanation| {
            for fact in explanation.chain.iter().flat_map(|link| &link.facts) {
                let id: FactId = fact.parse().unwrap();
                assert!(
                    snapshot.facts().iter().any(|seen| seen.id == id),
                    "{fact} was not observed"
                );
            }
            let chain: Vec<_> = explanation.chain.iter().map(|link| link.cause.as_str()).collect();
            let missing: Vec<_> =
                explanation.missing.iter().map(|m| format!("{}:{}", m.host, m.source)).collect();
            if explanation.verdict == "unknown" {
                assert_eq!(explanation.root_cause, "");
                format!("unknown, {} not seen", missing.join(" "))
            } else {
                assert_eq!(chain.last().copied(), Some(explanation.root_cause.as_str()));
                format!("{} {}: {}", explanation.kind, explanation.confidence, chain.join(" <- "))
            }
        },
    );
    assert_eq!(said, expected);
}

#[test]
fn out_of_memory_by_the_counter_and_by_the_kernel_line() {
    let counter = "T-0.380 app-1 oom_kill scope=cgroup unit=api.service count=1 witness=cgroup\n";
    let line = "T-0.100 app-1 oom_kill scope=cgroup unit=api.service pid=4121 witness=kernel_log\n";
    let expected = "observed proven: process.not_running <- process.oom_killed.cgroup";
    check(&[SERVED, DIED, counter, REFUSED], expected);
    check(&[SERVED, DIED, line, REFUSED], expected);
}

#[test]
fn kill_9_is_not_out_of_memory() {
    let expected = "observed proven: process.not_running <- process.killed_external";
    check(&[SERVED, DIED, REFUSED], expected);
    let other =
        "T-0.380 app-1 oom_kill scope=cgroup unit=batch.service pid=77 witness=kernel_log\n";
    check(&[SERVED, DIED, other, REFUSED], expected);
    let worker =
        "T-0.380 app-1 oom_kill scope=cgroup unit=api.service pid=4190 witness=kernel_log\n";
    check(&[SERVED, DIED, worker, REFUSED], expected);
}

#[test]
fn a_blind_source_is_not_innocence() {
    let blind = "T-500.000 app-1 source_blinded source=memory reason=x\n";
    // That it does not run is proven all the same, and is in the chain; who killed it is what was asked.
    check(&[SERVED, blind, DIED, REFUSED], "unknown, app-1:memory not seen");
    let blind = "T-500.000 app-1 source_blinded source=listener reason=x\n";
    // What was seen all the same is seen.
    let expected = "observed proven: process.not_running <- process.killed_external";
    check(&[SERVED, blind, DIED, REFUSED], expected);
    check(&[SERVED, blind, REFUSED], "unknown, app-1:listener app-1:network not seen");
}

#[test]
fn an_origin_without_an_agent_is_not_guessed_at() {
    let question =
        Question { gateway: "gw-1".into(), route: "shop/".into(), endpoint: "10.0.0.9:80".into() };
    let refused = REFUSED.replace("10.0.0.7:8080", "10.0.0.9:80");
    check_question(&question, &[&refused], 2, "unknown, 10.0.0.9:agent not seen");
}

#[test]
fn stopped_by_hand_restarted_and_crashed() {
    let stopped = "
T-0.500 app-1 unit_job unit=api.service job=stop by=\"systemctl stop api (pid 9, user root)\"
T-0.400 app-1 listener_closed address=0.0.0.0:8080 pid=4121 unit=api.service last=true
T-0.401 app-1 process_exited pid=4121 unit=api.service signal=15 main=true
T-0.100 app-1 unit_state unit=api.service load=loaded active=inactive sub=dead result=success
";
    check(&[SERVED, stopped, REFUSED], "observed proven: process.not_running");
    let restarted = stopped.replace("job=stop", "job=restart");
    check(
        &[SERVED, &restarted, REFUSED],
        "observed proven: process.not_running <- process.restarting",
    );
    let crashed = DIED.replace("signal=9", "signal=11");
    check(
        &[SERVED, &crashed, REFUSED],
        "observed proven: process.not_running <- process.crashed.signal",
    );
}

#[test]
fn a_failing_start_is_the_root_of_the_start_limit_where_its_reason_is_known() {
    let loops = "
T-1.000 app-1 unit_state unit=api.service load=loaded active=activating sub=auto-restart restarts=1
T-0.900 app-1 process_exited pid=51 unit=api.service status=1 main=true lifetime_ms=20
T-0.600 app-1 process_exited pid=52 unit=api.service status=1 main=true lifetime_ms=20
T-0.500 app-1 unit_start_limit_hit unit=api.service
T-0.500 app-1 unit_state unit=api.service load=loaded active=failed sub=failed result=exit-code
";
    check(
        &[SERVED, &DIED.replace("signal=9", "status=1"), loops, REFUSED],
        "observed proven: process.not_running <- systemd.start_limit_hit",
    );
    check(&[loops, REFUSED], "observed likely: process.not_running <- systemd.start_limit_hit");
}

#[test]
fn a_listener_elsewhere() {
    let on = |address: &str| {
        format!(
            "T-800.000 app-1 listener_opened address={address} pid=4121 unit=api.service comm=api\n\
             T-800.000 app-1 unit_state unit=api.service load=loaded active=active sub=running main_pid=4121\n"
        )
    };
    check(&[&on("127.0.0.1:8080"), REFUSED], "observed proven: listener.bound_to_loopback");
    check(&[&on("[::]:8080 v6_only=true"), REFUSED], "observed proven: listener.wrong_family");
    check(&[&on("10.0.0.8:8080"), REFUSED], "observed proven: listener.wrong_interface");
    check(
        &[&on("0.0.0.0:8001"), REFUSED],
        "observed likely: listener.absent_port <- gateway.upstream_port_mismatch",
    );
    // Refused although it listens: a firewall, which nobody watches here.
    check(&[SERVED, REFUSED], "unknown, app-1:network not seen");
}

#[test]
fn time_outs_by_who_holds_the_queue() {
    let timeout = REFUSED.replace("phase=connect fault=econnrefused", "phase=header fault=timeout");
    let connect = REFUSED.replace("fault=econnrefused", "fault=timeout");
    check(&[SERVED, &timeout], "observed likely: upstream.slow_app");
    let stopped = "T-70.000 app-1 process_stalled pid=4121 unit=api.service kind=stopped\n";
    check(&[SERVED, stopped, &timeout], "observed proven: process.hung.stopped");
    let queue = "T-30.000 app-1 accept_queue address=0.0.0.0:8080 depth=12 limit=128\n";
    check(&[SERVED, queue, &timeout], "observed likely: workers.saturated");
    let full = "T-30.000 app-1 accept_queue address=0.0.0.0:8080 depth=129 limit=128 full=true\n";
    check(&[SERVED, full, &connect], "observed proven: accept_queue.overflow");
    check(
        &[SERVED, full, stopped, &connect],
        "observed proven: accept_queue.overflow <- process.hung.stopped",
    );
    check(&[SERVED, &connect], "unknown, gw-1:kernel_log app-1:network gw-1:network not seen");
}

#[test]
fn workers() {
    let reset =
        REFUSED.replace("phase=connect fault=econnrefused", "phase=header fault=econnreset");
    let died = "T-0.010 app-1 process_exited pid=4190 unit=api.service signal=11\n";
    check(&[SERVED, died, &reset], "observed proven: worker.crashed");
    let killed = "T-0.010 app-1 app_server_event server=gunicorn event=worker_timed_out \
                  unit=api.service pid=4190 text=\"WORKER TIMEOUT\"\n";
    check(&[SERVED, killed, &reset], "observed proven: worker.killed_by_timeout");
    let oom = "T-0.012 app-1 oom_kill scope=cgroup unit=api.service pid=4190 witness=kernel_log\n";
    check(
        &[SERVED, &died.replace("=11", "=9"), oom, &reset],
        "observed proven: worker.crashed <- process.oom_killed.cgroup",
    );
    let recycled = died.replace("signal=11", "status=0");
    check(&[SERVED, &recycled, &reset], "unknown, app-1:journal not seen");
}

#[test]
fn no_live_upstreams_is_never_the_root() {
    let question = Question {
        gateway: "gw-1".into(),
        route: "shop/".into(),
        endpoint: "10.0.0.7:8080".into(),
    };
    let none = "T+0.100 gw-1 request_failed gateway=nginx instance=/etc/nginx/nginx.conf route=shop/ \
                upstream=pool phase=select fault=no_live_upstreams count=3\n";
    let refused = REFUSED.replace("phase=connect", "upstream=pool phase=connect");
    check_question(
        &question,
        &[SERVED, DIED, &refused, none],
        2,
        "observed proven: gateway.no_live_upstreams <- process.not_running <- process.killed_external",
    );
}

#[test]
fn a_peer_that_failed_its_health_check_is_asked_why() {
    let question = Question {
        gateway: "gw-1".into(),
        route: "shop/".into(),
        endpoint: "10.0.0.7:8080".into(),
    };
    let none = "T+0.100 gw-1 request_failed gateway=nginx instance=/etc/nginx/nginx.conf route=shop/ \
                upstream=pool phase=select fault=no_live_upstreams count=3\n";
    let down = "T+0.050 gw-1 endpoint_disabled instance=/etc/nginx/nginx.conf \
                endpoint=10.0.0.7:8080 upstream=pool phase=connect fault=econnrefused \
                message=\"Layer4 connection problem, info: \\\"Connection refused\\\"\"\n";
    check_question(
        &question,
        &[SERVED, DIED, down, none],
        2,
        "observed proven: gateway.no_live_upstreams <- process.not_running <- process.killed_external",
    );
    // Long ago, or told by nobody: what a request would meet now decides.
    check_question(
        &question,
        &[SERVED, DIED, none],
        2,
        "observed likely: gateway.no_live_upstreams <- process.not_running <- process.killed_external",
    );
}

#[test]
fn one_loopback_address_is_not_another() {
    let question = Question {
        gateway: "gw-1".into(),
        route: "shop/".into(),
        endpoint: "127.0.0.1:8080".into(),
    };
    let on = |address: &str| {
        format!("T-800.000 gw-1 listener_opened address={address} pid=4121 comm=gunicorn\n")
    };
    let refused = REFUSED.replace("10.0.0.7:8080", "127.0.0.1:8080");
    check_question(
        &question,
        &[&on("127.0.0.2:8080"), &refused],
        2,
        "observed proven: listener.wrong_interface",
    );
    // Who listens on every address takes this one too: refused by a firewall, which nobody watches.
    check_question(
        &question,
        &[&on("0.0.0.0:8080"), &refused],
        2,
        "unknown, gw-1:network not seen",
    );
}

#[test]
fn what_ended_while_the_agent_was_away_does_not_run() {
    let started = "T-700.000 app-1 process_started pid=4121 unit=api.service comm=api\n";
    let away = "T-100.000 app-1 agent_started version=1\n\
                T-99.900 app-1 source_seeing source=process\n\
                T-99.900 app-1 source_seeing source=unit\n\
                T-99.900 app-1 source_seeing source=listener\n";
    check(&[SERVED, started, away, REFUSED], "observed proven: process.not_running");
    // The sibling: it runs on, and closed its port meanwhile.
    let told = "T-99.950 app-1 unit_state unit=api.service load=loaded active=active sub=running \
                main_pid=4121 existing=true\n\
                T-99.950 app-1 process_started pid=4121 unit=api.service comm=api existing=true\n";
    check(
        &[SERVED, started, &away.replace("T-99.900", "T-99.800"), told, REFUSED],
        "observed proven: listener.absent_port",
    );
}

#[test]
fn a_gateway_that_only_says_502_met_what_was_there() {
    let bad = REFUSED.replace("phase=connect", "").replace("fault=econnrefused", "status=502");
    check(&[SERVED, DIED, &bad], "observed proven: process.not_running <- process.killed_external");
    // The listener was there all the time, so it was no refused connection.
    check(&[SERVED, &bad], "unknown, app-1:journal not seen");
}

#[test]
fn what_would_fail_is_told_before_it_does_and_only_then() {
    let question = Question {
        gateway: "gw-1".into(),
        route: "shop/".into(),
        endpoint: "10.0.0.7:8080".into(),
    };
    let expected = "predicted proven: process.not_running <- process.killed_external";
    check_question(&question, &[SERVED, DIED], 20, expected);
    check_question(&question, &[SERVED, DIED], 1, "nothing wrong");
    check_question(&question, &[SERVED], 20, "nothing wrong");
    let back = "T+3.000 app-1 listener_opened address=0.0.0.0:8080 pid=5000 unit=api.service\n";
    check_question(&question, &[SERVED, DIED, back], 20, "nothing wrong");
}

#[test]
fn failures_stay_explained_after_the_app_came_back() {
    let question = Question {
        gateway: "gw-1".into(),
        route: "shop/".into(),
        endpoint: "10.0.0.7:8080".into(),
    };
    let back = "T+3.000 app-1 listener_opened address=0.0.0.0:8080 pid=5000 unit=api.service\n\
                T+3.000 app-1 unit_state unit=api.service active=active sub=running main_pid=5000\n";
    check_question(
        &question,
        &[SERVED, DIED, REFUSED, back],
        60,
        "observed proven: process.not_running <- process.killed_external",
    );
}

#[test]
fn unix_sockets() {
    let question = Question {
        gateway: "gw-1".into(),
        route: "php/".into(),
        endpoint: "unix:/run/a.sock".into(),
    };
    let path =
        |state: &str| format!("T-800.000 gw-1 unix_socket_path address=unix:/run/a.sock {state}\n");
    let failed = |fault: &str| {
        format!(
            "T+0.000 gw-1 request_failed route=php/ endpoint=unix:/run/a.sock phase=connect fault={fault}\n"
        )
    };
    let check = |state: &str, fault: &str, expected| {
        check_question(&question, &[&path(state), &failed(fault)], 2, expected);
    };
    check("state=missing", "enoent", "observed proven: unix_socket.missing");
    check(
        "state=alive client_uid=33 denied_at=/run/a.sock denied_mode=0600",
        "eacces",
        "observed proven: unix_socket.permission",
    );
    check("state=stale", "econnrefused", "observed proven: unix_socket.stale");
    let listens = "T-800.000 gw-1 listener_opened address=unix:/run/a.sock pid=5 unit=fpm.service\n\
                   T-5.000 gw-1 accept_queue address=unix:/run/a.sock depth=6 limit=5 full=true\n";
    check_question(
        &question,
        &[listens, &failed("eagain")],
        2,
        "observed proven: unix_socket.backlog_full",
    );
}

#[test]
fn the_order_of_arrival_does_not_matter() {
    let oom = "T-0.380 app-1 oom_kill scope=cgroup unit=api.service pid=4121 witness=kernel_log\n";
    let forward = snapshot(&[SIGHT, SERVED, DIED, oom, REFUSED], 2);
    let mut facts = forward.facts().to_vec();
    facts.reverse();
    let backward = Snapshot::new(facts, forward.now_us());
    for question in questions(&forward) {
        let said = explain(&forward, &question).expect("it failed");
        assert_eq!(said, explain(&backward, &question).expect("it failed"));
    }
}
