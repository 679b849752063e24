//! Explanations for tests of everything that shows them. Invented; their shape is the engine's.

use why502_proto::v1;

/// The moment the samples are looked at.
pub(crate) const NOW: &str = "2026-11-24T12:07:08Z";

fn link(cause: &str, host: &str, at: &str, text: &str, seqs: &[u64]) -> v1::Link {
    v1::Link {
        cause: cause.into(),
        host: host.into(),
        at: at.into(),
        text: text.into(),
        facts: seqs.iter().map(|seq| format!("{host}/b1/{seq}")).collect(),
        confidence: "proven".into(),
    }
}

/// A limit too small, told by gateway and origin.
pub(crate) fn oom_killed() -> v1::Explanation {
    v1::Explanation {
        incident: "7".into(),
        state: "open".into(),
        kind: "observed".into(),
        gateway: "gw-1".into(),
        route: "/api".into(),
        endpoint: "10.0.0.7:8080".into(),
        symptom: Some(v1::Symptom {
            status: 502,
            phase: "connect".into(),
            error: "ECONNREFUSED".into(),
            count: 142,
            first: "2026-11-24T12:03:04.120Z".into(),
            last: "2026-11-24T12:07:05.412Z".into(),
            message: "connect() failed (111: Connection refused) while connecting to upstream"
                .into(),
        }),
        verdict: "explained".into(),
        root_cause: "process.oom_killed.cgroup".into(),
        confidence: "proven".into(),
        headline: "api.service on app-1 was OOM-killed at its 512 MiB limit; nothing listens on \
                   10.0.0.7:8080"
            .into(),
        chain: vec![
            link(
                "process.not_running",
                "app-1",
                "2026-11-24T12:03:03.981Z",
                "nothing listens on 0.0.0.0:8080 since pid 4121 (api.service) closed it",
                &[181],
            ),
            link(
                "process.crashed.signal",
                "app-1",
                "2026-11-24T12:03:03.980Z",
                "main process 4121 of api.service was killed by signal 9 (SIGKILL)",
                &[180, 184],
            ),
            link(
                "process.oom_killed.cgroup",
                "app-1",
                "2026-11-24T12:03:03.978Z",
                "the kernel killed pid 4121: api.service reached its limit of 512 MiB with 498 MiB \
                 of anonymous memory",
                &[179, 182],
            ),
        ],
        ruled_out: vec![v1::Link {
            text: "pid 4121 listened on the address until it died".into(),
            ..link("listener.bound_to_loopback", "app-1", "", "", &[12])
        }],
        missing: vec![v1::Missing {
            host: "app-1".into(),
            source: "journal".into(),
            since: "2026-11-24T11:50:00.000Z".into(),
            text: "the last words of the service; add why502-agent to group systemd-journal".into(),
            causes: vec![],
        }],
        also: vec![v1::Candidate {
            cause: "memory.pressure".into(),
            confidence: "possible".into(),
            text: "memory was short on app-1 from 12:02:40".into(),
            facts: vec!["app-1/b1/170".into()],
        }],
        check: "systemctl status api.service".into(),
        check_host: "app-1".into(),
        fix: "raise MemoryMax= of api.service, or find what it holds: 498 MiB of anonymous memory \
              at its death"
            .into(),
        opened: "2026-11-24T12:03:04.200Z".into(),
        updated: "2026-11-24T12:07:05.500Z".into(),
        resolved: String::new(),
        hosts: vec!["gw-1".into(), "app-1".into()],
        routes: vec!["/api".into()],
    }
}

/// No agent on the origin.
pub(crate) fn unknown() -> v1::Explanation {
    v1::Explanation {
        incident: "8".into(),
        gateway: "gw-1".into(),
        route: "shop.example/cart".into(),
        routes: vec!["shop.example/cart".into()],
        endpoint: "10.0.0.9:9000".into(),
        verdict: "unknown".into(),
        root_cause: String::new(),
        confidence: String::new(),
        headline:
            "502 on gw-1 shop.example/cart: connections to 10.0.0.9:9000 are refused, and no \
                   agent is there to see why"
                .into(),
        chain: vec![],
        ruled_out: vec![],
        also: vec![],
        missing: vec![v1::Missing {
            host: "10.0.0.9".into(),
            source: "agent".into(),
            since: String::new(),
            text: "whether anything listens there; start why502-agent on that host".into(),
            causes: vec!["process.not_running".into(), "listener.bound_to_loopback".into()],
        }],
        check: "ss -ltnp 'sport = :9000'".into(),
        check_host: "10.0.0.9".into(),
        fix: String::new(),
        opened: "2026-11-24T12:05:00.000Z".into(),
        hosts: vec!["gw-1".into()],
        ..oom_killed()
    }
}

/// Found before a request failed.
pub(crate) fn predicted() -> v1::Explanation {
    v1::Explanation {
        incident: "9".into(),
        kind: "predicted".into(),
        route: "/admin".into(),
        routes: vec!["/admin".into()],
        endpoint: "10.0.0.8:8001".into(),
        symptom: Some(v1::Symptom::default()),
        root_cause: "listener.bound_to_loopback".into(),
        confidence: "likely".into(),
        headline: "admin.service on app-2 listens on 127.0.0.1:8001 only; gw-1 asks 10.0.0.8:8001"
            .into(),
        chain: vec![v1::Link {
            confidence: "likely".into(),
            ..link(
                "listener.bound_to_loopback",
                "app-2",
                "2026-11-24T11:58:00.000Z",
                "pid 811 (admin.service) listens on 127.0.0.1:8001 only",
                &[33],
            )
        }],
        ruled_out: vec![],
        missing: vec![],
        also: vec![],
        check: "ss -ltnp 'sport = :8001'".into(),
        check_host: "app-2".into(),
        fix: "let admin.service listen on 0.0.0.0:8001 or 10.0.0.8:8001".into(),
        opened: "2026-11-24T11:58:00.300Z".into(),
        hosts: vec!["gw-1".into(), "app-2".into()],
        ..oom_killed()
    }
}
