//! What a configuration means, whether it was written as a Caddyfile or as JSON: routes, and where
//! their requests go.
//!
//! # Names of routes
//!
//! The first host of the site, the port unless it is 80 or 443, and the first path that the
//! requests match as it is
//! written, or `/`: "shop.example/api/*", ":8080/", "localhost:7180/". Matchers of other things
//! than host and path are
//! not part of the name.

use why502_proto::v1::{EndpointDeclared, Protocol};

use crate::effective::Target;
use crate::place::Problem;

/// Everything that is declared.
#[derive(Debug, Default)]
pub struct Config {
    /// In the order in which requests are matched.
    pub routes: Vec<Route>,
    /// "0.0.0.0:80" and the like.
    pub listens: Vec<String>,
    /// Where the loggers write.
    pub logs: Vec<Target>,
    /// Address of the admin interface; `None`: off.
    pub admin: Option<String>,
    /// What was not understood.
    pub problems: Vec<Problem>,
}

/// Requests that are sent on, or answered in place.
#[derive(Clone, Debug, Default)]
pub struct Route {
    /// Its name in facts.
    pub name: String,
    /// Hosts that it is for, in lower case; none: all.
    pub hosts: Vec<String>,
    /// Port of its site; 0: not known.
    pub port: u16,
    /// Paths that it is for, one list for each level; a request matches one of each.
    pub paths: Vec<Vec<String>>,
    /// It asks for more than host and path.
    pub conditional: bool,
    /// Where to; none: Caddy answers itself, or only a request tells.
    pub peers: Vec<EndpointDeclared>,
}

impl Route {
    /// Whether a request is one of its.
    pub fn takes(&self, host: &str, port: Option<u16>, path: &str) -> bool {
        let host_fits = self.hosts.is_empty()
            || self.hosts.iter().any(|own| own == host || fits_wildcard(own, host));
        let port_fits = port.is_none_or(|port| self.port == 0 || self.port == port);
        host_fits
            && port_fits
            && self.paths.iter().all(|level| level.iter().any(|own| fits_path(own, path)))
    }
}

/// "*.example.com": one label.
fn fits_wildcard(own: &str, host: &str) -> bool {
    let Some(suffix) = own.strip_prefix('*') else { return false };
    host.strip_suffix(suffix).is_some_and(|label| !label.is_empty() && !label.contains('.'))
}

/// "/a/*", "*.php", "/a*", "/a": MatchPath, which does not look at case.
fn fits_path(own: &str, path: &str) -> bool {
    let (own, path) = (own.to_ascii_lowercase(), path.to_ascii_lowercase());
    let (first, last) = (own.starts_with('*'), own.ends_with('*'));
    let inner = own.trim_matches('*');
    match (first, last) {
        _ if own == "*" => true,
        (false, false) => own == path,
        (false, true) => path.starts_with(inner),
        (true, false) => path.ends_with(inner),
        (true, true) => path.contains(inner),
    }
}

impl Config {
    /// The route of a request; `None`: no route sends it on.
    pub fn route(&self, host: &str, path: &str) -> Option<&Route> {
        let (name, port) =
            host.rsplit_once(':').map_or((host, None), |(name, port)| (name, port.parse().ok()));
        let name = name.to_ascii_lowercase();
        let takes = |route: &&Route| route.takes(&name, port, path);
        let certain = self.routes.iter().filter(takes).find(|route| !route.conditional);
        let route = certain.or_else(|| self.routes.iter().find(takes));
        route.filter(|route| !route.peers.is_empty())
    }

    /// Another route that takes the request and has a peer that `fits`.
    pub fn with_peer(
        &self,
        host: &str,
        path: &str,
        fits: impl Fn(&EndpointDeclared) -> bool,
    ) -> Option<&Route> {
        let (name, port) =
            host.rsplit_once(':').map_or((host, None), |(name, port)| (name, port.parse().ok()));
        let name = name.to_ascii_lowercase();
        let mut routes = self.routes.iter().filter(|route| route.takes(&name, port, path));
        routes.find(|route| route.peers.iter().any(&fits))
    }
}

/// Name of a route: host, port, path.
pub fn route_name(hosts: &[String], port: u16, paths: &[Vec<String>]) -> String {
    let host = hosts.first().map_or("", String::as_str);
    let path = paths.last().and_then(|level| level.first()).map_or("/", String::as_str);
    match port {
        0 | 80 | 443 => format!("{host}{path}"),
        _ => format!("{host}:{port}{path}"),
    }
}

/// How a handler speaks to its upstreams.
#[derive(Clone, Debug)]
pub struct Transport {
    /// What it speaks.
    pub protocol: Protocol,
    /// `dial_timeout`
    pub connect_ms: u64,
    /// `response_header_timeout`, or `read_timeout` of FastCGI; 0: no limit.
    pub read_ms: u64,
    /// `write_timeout`; 0: no limit.
    pub send_ms: u64,
    /// `keepalive`
    pub keepalive_ms: Option<u64>,
    /// `max_fails`, where `fail_duration` is set.
    pub max_fails: u32,
    /// `fail_duration`
    pub fail_ms: u64,
}

impl Default for Transport {
    /// Of `reverseproxy.HTTPTransport`.
    fn default() -> Self {
        Self {
            protocol: Protocol::Http,
            connect_ms: 3000,
            read_ms: 0,
            send_ms: 0,
            keepalive_ms: Some(120_000),
            max_fails: 0,
            fail_ms: 0,
        }
    }
}

/// "10.0.0.7:8080", "app:80", "unix:/run/a.sock" of what Caddy dials: "app:80", ":9000", "unix//run/a.sock",
/// "tcp/app:80". `None`: only a request tells.
pub fn endpoint(dial: &str, port: u16) -> Option<String> {
    for network in ["unix/", "unix+h2c/"] {
        if let Some(path) = dial.strip_prefix(network) {
            // A mode may follow: "unix//run/a.sock|0666".
            let path = path.split('|').next().unwrap_or(path);
            return Some(format!("unix:{path}"));
        }
    }
    let address = dial.strip_prefix("tcp/").unwrap_or(dial);
    if address.contains(['{', '/']) || address.is_empty() {
        return None;
    }
    let named = address.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
    Some(match named {
        // Go dials its own host.
        Some(("", port)) => format!("localhost:{port}"),
        Some(_) => address.to_ascii_lowercase(),
        None => format!("{}:{port}", address.to_ascii_lowercase()),
    })
}

/// The facts of a handler.
pub fn peers(
    dials: &[String],
    transport: &Transport,
    file: &str,
    line: u32,
) -> Vec<EndpointDeclared> {
    let port = if transport.protocol == Protocol::Https { 443 } else { 80 };
    let endpoints: Vec<String> = dials.iter().filter_map(|dial| endpoint(dial, port)).collect();
    let count = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
    let fact = |endpoint: String| {
        let address =
            endpoint.starts_with("unix:") || endpoint.parse::<std::net::SocketAddr>().is_ok();
        EndpointDeclared {
            gateway: super::NAME.to_owned(),
            addresses: if address { vec![endpoint.clone()] } else { Vec::new() },
            endpoint,
            peers: count,
            protocol: transport.protocol.into(),
            file: file.to_owned(),
            line,
            connect_timeout_ms: transport.connect_ms,
            read_timeout_ms: transport.read_ms,
            send_timeout_ms: transport.send_ms,
            keepalive_ms: transport.keepalive_ms,
            max_fails: transport.max_fails,
            fail_timeout_ms: transport.fail_ms,
            ..EndpointDeclared::default()
        }
    };
    endpoints.into_iter().map(fact).collect()
}

/// "5s", "1m30s", "500ms", "1d", of Go and of Caddy; "0" is 0.
pub fn duration_ms(text: &str) -> Option<u64> {
    if text == "0" {
        return Some(0);
    }
    let mut total = 0_f64;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        let unit_end =
            rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |n| n + digits);
        total += number
            * match &rest[digits..unit_end] {
                "ns" => 1e-6,
                "us" | "µs" => 1e-3,
                "ms" => 1.0,
                "s" => 1e3,
                "m" => 6e4,
                "h" => 3.6e6,
                "d" => 8.64e7,
                _ => return None,
            };
        rest = &rest[unit_end..];
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
    (!text.is_empty()).then_some(total as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_addresses_paths_and_times() {
        for (dial, expected) in [
            ("app:8080", Some("app:8080")),
            ("App", Some("app:80")),
            (":9000", Some("localhost:9000")),
            ("[::1]:80", Some("[::1]:80")),
            ("unix//run/a.sock", Some("unix:/run/a.sock")),
            ("{http.request.host}:80", None),
        ] {
            assert_eq!(endpoint(dial, 80).as_deref(), expected);
        }
        assert!(
            fits_path("/api/*", "/API/x")
                && !fits_path("/api/*", "/api")
                && fits_path("*.php", "/a.php")
        );
        assert!(fits_path("*", "/") && fits_path("/a*", "/ab") && !fits_path("/a", "/a/"));
        assert!(
            fits_wildcard("*.example", "a.example") && !fits_wildcard("*.example", "a.b.example")
        );
        for (text, expected) in [
            ("1m30s", Some(90_000)),
            ("250ms", Some(250)),
            ("1.5s", Some(1500)),
            ("0", Some(0)),
            ("x", None),
            ("5", None),
            ("", None),
        ] {
            assert_eq!(duration_ms(text), expected, "{text}");
        }
    }
}
