//! What holds for every request: who may ask, and what browsers may do with the answer.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::App;
use super::problem::Problem;

/// Nothing but this server's own style sheet, script and icon; no inline style or script.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; \
    img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// Refuses requests under a foreign name on loopback, and puts the headers on every answer.
pub(super) async fn guard(State(app): State<App>, request: Request, next: Next) -> Response {
    let mut response = if is_own_name(app.bound, request.uri(), request.headers()) {
        next.run(request).await
    } else {
        let problem = Problem {
            status: StatusCode::MISDIRECTED_REQUEST,
            detail: "this collector listens on loopback only and is not known by that name".into(),
            hint: format!(
                "ask for http://{}/ or http://localhost:{}/",
                app.bound,
                app.bound.port()
            ),
        };
        problem.into_response()
    };
    let policy = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    let headers = response.headers_mut();
    for (name, value) in policy {
        headers.insert(name, HeaderValue::from_static(value));
    }
    // What is shown changes by the second; the assets set their own.
    headers.entry(header::CACHE_CONTROL).or_insert_with(|| HeaderValue::from_static("no-store"));
    response
}

/// A page of a stranger that makes its own name point at 127.0.0.1 (DNS rebinding) must not read what is meant for
/// this machine. Beyond loopback any name may be the right one, and who can connect may read.
fn is_own_name(bound: SocketAddr, uri: &Uri, headers: &HeaderMap) -> bool {
    if !bound.ip().is_loopback() {
        return true;
    }
    let host = headers.get(header::HOST).map(HeaderValue::to_str);
    let name = match (uri.host(), host) {
        (Some(host), _) => host.to_owned(),
        (None, Some(Ok(host))) => host.to_owned(),
        (None, Some(Err(_))) => return false,
        // HTTP/1.0 without a name: no browser does that.
        (None, None) => return true,
    };
    let name = without_port(&name);
    if name.eq_ignore_ascii_case("localhost") {
        return true;
    }
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    address.parse::<IpAddr>().is_ok_and(|ip| ip == bound.ip() || ip.is_loopback())
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !host.ends_with(']') => {
            name
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(bound: &str, host: &str, allowed: bool) {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_bytes(host.as_bytes()).unwrap());
        let uri = Uri::from_static("/api/v1/hosts");
        assert_eq!(is_own_name(bound.parse().unwrap(), &uri, &headers), allowed, "{host}");
    }

    #[test]
    fn on_loopback_only_names_of_loopback() {
        check("127.0.0.1:8503", "127.0.0.1:8503", true);
        check("127.0.0.1:8503", "localhost", true);
        check("127.0.0.1:8503", "LOCALHOST:9999", true);
        check("127.0.0.1:8503", "[::1]:8503", true);
        check("[::1]:8503", "[::1]", true);
        check("127.0.0.1:8503", "evil.example:8503", false);
        check("127.0.0.1:8503", "localhost.evil.example", false);
        check("127.0.0.1:8503", "127.0.0.1.evil.example", false);
        check("127.0.0.1:8503", "10.0.0.1:8503", false);
        check("127.0.0.1:8503", "\u{e9}", false);
        check("127.0.0.1:8503", "", false);
    }

    #[test]
    fn beyond_loopback_any_name() {
        check("10.0.0.1:8503", "why502.example", true);
        check("0.0.0.0:8503", "why502.example", true);
    }
}
