//! Lines as the makers' documentation has them.

use expect_test::{Expect, expect};
use jiff::tz::TimeZone;
use proptest::prelude::*;

use super::*;
use crate::any::Any;

#[track_caller]
fn check(lines: &str, expected: Expect) {
    let mut any = Any::new(TimeZone::UTC);
    let mut text = String::new();
    for line in lines.lines() {
        let mut told = Vec::new();
        let name = any.read(line, &mut told);
        let name = name.unwrap_or_else(|| panic!("nobody knows {line}"));
        for told in told {
            let What::Failed(failed) = told.what else { continue };
            assert_eq!(failed.gateway, name);
            assert!(told.at_us.is_some(), "{line}");
            text += &format!(
                "{name} {} -> {} {} {} {:?} {}\n",
                failed.route,
                failed.endpoint,
                failed.phase().as_str_name(),
                failed.fault().as_str_name(),
                failed.status,
                failed.message
            );
        }
    }
    expected.assert_eq(&text);
}

#[test]
fn application_load_balancer() {
    let line = |target: &str, times: &str, statuses: &str| {
        format!(
            "https 2026-11-24T13:46:09.186641Z app/shop/50dc6c495c0c9188 192.168.131.39:2817 {target} {times} {statuses} 0 57 \
             \"GET https://www.example.com:443/api/x?token=1 HTTP/1.1\" \"curl/7.46.0\" ECDHE-RSA-AES128-GCM-SHA256 TLSv1.2 \
             arn:aws:elasticloadbalancing:us-east-2:123456789012:targetgroup/web/73e2d6bc24d8a067 \"Root=1-58337281\" \
             \"www.example.com\" \"arn:aws:acm:us-east-2:1:certificate/1\" 1 2026-11-24T13:46:08.364000Z \"forward\" \"-\" \"-\" \
             \"10.0.0.1:80\" \"-\" \"-\" \"-\"\n"
        )
    };
    let lines = [
        line("10.0.0.1:80", "0.086 0.048 0.037", "200 200"),
        line("10.0.0.1:80", "0.001 -1 -1", "502 -"),
        line("10.0.0.1:80", "0.001 0.004 0.000", "502 502"),
        line("10.0.0.1:80", "-1 -1 -1", "504 -"),
        line("-", "-1 -1 -1", "503 -"),
    ];
    check(
        &lines.concat(),
        expect![[r#"
        alb www.example.com/api/ -> 10.0.0.1:80 PHASE_UNSPECIFIED FAULT_UNSPECIFIED Some(502) 
        alb www.example.com/api/ -> 10.0.0.1:80 PHASE_HEADER FAULT_RELAYED Some(502) 
        alb www.example.com/api/ -> 10.0.0.1:80 PHASE_CONNECT FAULT_TIMEOUT Some(504) 
        alb www.example.com/api/ ->  PHASE_SELECT FAULT_NO_LIVE_UPSTREAMS Some(503) 
    "#]],
    );
}

#[test]
fn cloudfront() {
    let line = |status: &str, reason: &str| {
        format!(
            "2026-11-24\t13:46:09\tLAX1\t2390282\t192.0.2.202\tGET\td111111abcdef8.cloudfront.net\t/view/a.html\t{status}\t-\tcurl\t-\t-\tError\t\
             id==\twww.example.com\thttps\t23\t0.001\t-\tTLSv1.2\tAES\tError\tHTTP/2.0\t-\t-\t11040\t0.001\t{reason}\ttext/html\t78\t-\t-\n"
        )
    };
    let lines = [
        line("502", "OriginConnectError"),
        line("502", "NonS3OriginDnsError"),
        line("504", "OriginCommError"),
        line("503", "OriginError"),
        line("200", "Hit"),
    ];
    check(
        &format!("#Fields: date time x-edge-location sc-bytes\n{}", lines.concat()),
        expect![[r#"
            cloudfront www.example.com/view/ ->  PHASE_CONNECT FAULT_UNSPECIFIED Some(502) OriginConnectError
            cloudfront www.example.com/view/ ->  PHASE_RESOLVE FAULT_DNS_FAILED Some(502) NonS3OriginDnsError
            cloudfront www.example.com/view/ ->  PHASE_UNSPECIFIED FAULT_TIMEOUT Some(504) OriginCommError
            cloudfront www.example.com/view/ ->  PHASE_HEADER FAULT_RELAYED Some(503) OriginError
        "#]],
    );
}

#[test]
fn cloudflare() {
    let line = |edge: u16, origin: u16| {
        format!(
            "{{\"ClientRequestHost\":\"example.com\",\"ClientRequestMethod\":\"GET\",\"ClientRequestURI\":\"/api/x?y\",\"EdgeEndTimestamp\":\
             \"2026-11-24T13:46:09Z\",\"EdgeResponseStatus\":{edge},\"OriginIP\":\"192.0.2.7\",\"OriginResponseStatus\":{origin},\"ZoneName\":\
             \"example.com\"}}\n"
        )
    };
    let all = [(521, 0), (522, 0), (524, 0), (526, 0), (502, 502), (502, 0), (200, 200)];
    let lines: String = all.iter().map(|(edge, origin)| line(*edge, *origin)).collect();
    check(
        &lines,
        expect![[r#"
        cloudflare example.com/api/ -> 192.0.2.7 PHASE_CONNECT FAULT_ECONNREFUSED Some(521) the origin refused the connection
        cloudflare example.com/api/ -> 192.0.2.7 PHASE_CONNECT FAULT_TIMEOUT Some(522) no connection to the origin in time
        cloudflare example.com/api/ -> 192.0.2.7 PHASE_HEADER FAULT_TIMEOUT Some(524) the origin did not answer in time
        cloudflare example.com/api/ -> 192.0.2.7 PHASE_TLS FAULT_TLS_CERTIFICATE Some(526) the origin's certificate is not valid
        cloudflare example.com/api/ -> 192.0.2.7 PHASE_HEADER FAULT_RELAYED Some(502) 
        cloudflare example.com/api/ -> 192.0.2.7 PHASE_UNSPECIFIED FAULT_UNSPECIFIED Some(502) 
    "#]],
    );
}

#[test]
fn google() {
    let line = |status: u16, details: &str| {
        format!(
            "{{\"httpRequest\":{{\"latency\":\"0.039892s\",\"requestMethod\":\"GET\",\"requestUrl\":\"https://example.com/api/x?y\",\
             \"serverIp\":\"10.0.0.7\",\"status\":{status}}},\"jsonPayload\":{{\"statusDetails\":\"{details}\"}},\"resource\":{{\"labels\":\
             {{\"backend_service_name\":\"web\",\"url_map_name\":\"edge\"}}}},\"timestamp\":\"2026-11-24T13:46:09.1Z\"}}\n"
        )
    };
    let lines = [
        line(502, "failed_to_pick_backend"),
        line(502, "backend_connection_closed_before_data_sent_to_client"),
        line(502, "response_sent_by_backend"),
        line(502, "moon_phase"),
        line(200, "response_sent_by_backend"),
    ];
    check(
        &lines.concat(),
        expect![[r#"
        google-lb example.com/api/ -> 10.0.0.7 PHASE_SELECT FAULT_NO_LIVE_UPSTREAMS Some(502) failed_to_pick_backend
        google-lb example.com/api/ -> 10.0.0.7 PHASE_HEADER FAULT_CLOSED Some(502) backend_connection_closed_before_data_sent_to_client
        google-lb example.com/api/ -> 10.0.0.7 PHASE_HEADER FAULT_RELAYED Some(502) response_sent_by_backend
        google-lb example.com/api/ -> 10.0.0.7 PHASE_UNSPECIFIED FAULT_UNSPECIFIED Some(502) moon_phase
    "#]],
    );
}

#[test]
fn fastly_and_azure() {
    let fastly = |reason: &str| {
        format!(
            "{{\"timestamp\":\"2026-11-24T13:46:09+0000\",\"host\":\"example.com\",\"url\":\"/a/b?c\",\"request_method\":\"GET\",\
             \"response_status\":503,\"response_reason\":\"{reason}\",\"fastly_server\":\"cache-1\",\"fastly_is_edge\":true}}\n"
        )
    };
    let azure = |info: &str, own: &str| {
        format!(
            "{{\"timeStamp\":\"2026-11-24T13:46:09+00:00\",\"resourceId\":\"/SUBSCRIPTIONS/1/APPLICATIONGATEWAYS/EDGE\",\"category\":\
             \"ApplicationGatewayAccessLog\",\"properties\":{{\"httpMethod\":\"GET\",\"requestUri\":\"/a/b\",\"host\":\"example.com\",\
             \"httpStatus\":502,\"serverRouted\":\"10.0.0.7:80\",\"serverStatus\":\"{own}\",\"serverResponseLatency\":\"0.012\",\
             \"error_info\":\"{info}\"}}}}\n"
        )
    };
    let lines = [
        fastly("backend read error"),
        fastly("Connection refused"),
        fastly("Service Unavailable"),
        azure("ERRORINFO_UPSTREAM_NO_LIVE", ""),
        azure("ERRORINFO_NO_ERROR", "502"),
    ];
    check(
        &lines.concat(),
        expect![[r#"
        fastly example.com/a/ ->  PHASE_HEADER FAULT_UNSPECIFIED Some(503) backend read error
        fastly example.com/a/ ->  PHASE_CONNECT FAULT_ECONNREFUSED Some(503) Connection refused
        fastly example.com/a/ ->  PHASE_HEADER FAULT_RELAYED Some(503) Service Unavailable
        azure-gateway example.com/a/ -> 10.0.0.7:80 PHASE_SELECT FAULT_NO_LIVE_UPSTREAMS Some(502) UPSTREAM_NO_LIVE
        azure-gateway example.com/a/ -> 10.0.0.7:80 PHASE_HEADER FAULT_RELAYED Some(502) NO_ERROR
    "#]],
    );
}

#[test]
fn urls_and_times() {
    assert_eq!(split_url("https://a:443/b?c"), ("a:443", "/b"));
    assert_eq!((split_url("a"), split_url("/x")), (("a", "/"), ("", "/x")));
    assert_eq!(
        (seconds_ms("1.2345"), seconds_ms("-1"), seconds_ms("0")),
        (Some(1234), None, Some(0))
    );
}

proptest! {
    #[test]
    fn any_line_is_read(line: String, tail in "[ -~\t]{0,120}") {
        for format in FORMATS {
            let mut told = Vec::new();
            for line in [&line, &format!("https 2026-11-24T13:46:09Z app/x {tail}"), &format!("2026-11-24\t13:46:09\t{tail}")] {
                let _known = (format.knows)(line);
                (format.lines)().read(line, &mut told);
            }
        }
    }
}
