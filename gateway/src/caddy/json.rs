//! Caddy's own configuration, which every other form becomes: <https://caddyserver.com/docs/json/>.

use serde_json::Value;
use why502_proto::v1::Protocol;

use super::config::{Config, Route, Transport, duration_ms, peers, route_name};
use crate::effective::Target;

/// Where the admin interface listens where nothing is said.
pub const ADMIN: &str = "localhost:2019";

/// Routes inside of routes.
const DEPTH_MAX: usize = 24;

/// What JSON means. `file` is where it was read.
pub fn effective(json: &Value, file: &str) -> Config {
    let mut config = Config { admin: admin(json), ..Config::default() };
    logs(json, &mut config);
    let servers = json.pointer("/apps/http/servers").and_then(Value::as_object);
    for server in servers.into_iter().flat_map(|servers| servers.values()) {
        let listens: Vec<&str> = strings(&server["listen"]).collect();
        config.listens.extend(listens.iter().map(|listen| listen_address(listen)));
        let port = listens.first().and_then(|listen| listen.rsplit_once(':'));
        let port = port.and_then(|(_, port)| port.parse().ok()).unwrap_or(0);
        let around = Route { port, ..Route::default() };
        for route in list(&server["routes"]) {
            walk(route, &around, file, 0, &mut config.routes);
        }
    }
    config
}

fn admin(json: &Value) -> Option<String> {
    let admin = &json["admin"];
    if admin["disabled"].as_bool() == Some(true) {
        return None;
    }
    let listen = admin["listen"].as_str().unwrap_or(ADMIN);
    Some(admin_address(listen))
}

/// "localhost:2019", "unix:/run/caddy/admin.socket" of "unix//run/caddy/admin.socket|0220".
pub fn admin_address(listen: &str) -> String {
    match listen.strip_prefix("unix/") {
        Some(path) => format!("unix:{}", path.split('|').next().unwrap_or(path)),
        None if listen.starts_with(':') => format!("localhost{listen}"),
        None => listen.strip_prefix("tcp/").unwrap_or(listen).to_owned(),
    }
}

/// ":80" takes both families.
pub fn listen_address(listen: &str) -> String {
    match listen.strip_prefix(':') {
        Some(port) => format!("[::]:{port}"),
        None => listen.strip_prefix("tcp/").unwrap_or(listen).to_owned(),
    }
}

fn logs(json: &Value, config: &mut Config) {
    let logs = json.pointer("/logging/logs").and_then(Value::as_object);
    if logs.is_none_or(|logs| !logs.contains_key("default")) {
        config.logs.push(Target::Stdio);
    }
    for log in logs.into_iter().flat_map(|logs| logs.values()) {
        let writer = &log["writer"];
        let file = writer["filename"].as_str().unwrap_or("");
        config.logs.extend(target(writer["output"].as_str().unwrap_or("stderr"), file));
    }
}

/// Where a logger writes; `None`: nowhere.
pub fn target(output: &str, file: &str) -> Option<Target> {
    match output {
        "stderr" | "stdout" => Some(Target::Stdio),
        "file" if file.starts_with('/') => Some(Target::File(file.into())),
        "discard" => None,
        _ => Some(Target::Elsewhere {
            reason: format!("logs go to {output}"),
            grant: "log to a file or to stderr".to_owned(),
        }),
    }
}

fn walk(json: &Value, around: &Route, file: &str, depth: usize, routes: &mut Vec<Route>) {
    if depth > DEPTH_MAX {
        return;
    }
    let mut route = around.clone();
    let sets = list(&json["match"]);
    if !sets.is_empty() {
        let both = |key: &str| -> Vec<String> {
            sets.iter().flat_map(|set| strings(&set[key])).map(str::to_owned).collect()
        };
        let (hosts, paths) = (both("host"), both("path"));
        if !hosts.is_empty() {
            route.hosts = hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        }
        // A set without a path takes all paths.
        if !paths.is_empty() && sets.iter().all(|set| !list(&set["path"]).is_empty()) {
            route.paths.push(paths);
        }
        route.conditional |= sets.iter().any(|set| {
            let keys = set.as_object().map(serde_json::Map::keys).into_iter().flatten();
            keys.into_iter().any(|key| !matches!(key.as_str(), "host" | "path"))
        });
    }
    for handler in list(&json["handle"]) {
        match handler["handler"].as_str().unwrap_or("") {
            "subroute" => {
                for inner in list(&handler["routes"]) {
                    walk(inner, &route, file, depth + 1, routes);
                }
            }
            "reverse_proxy" => {
                let dials: Vec<String> = list(&handler["upstreams"])
                    .iter()
                    .filter_map(|up| up["dial"].as_str())
                    .map(str::to_owned)
                    .collect();
                let mut found = route.clone();
                found.peers = peers(&dials, &transport(handler), file, 0);
                add(found, routes);
            }
            "static_response" | "error" if !route.paths.is_empty() => add(route.clone(), routes),
            _ => {}
        }
    }
}

/// Gives it its name.
pub fn add(mut route: Route, routes: &mut Vec<Route>) {
    route.name = route_name(&route.hosts, route.port, &route.paths);
    for peer in &mut route.peers {
        peer.route.clone_from(&route.name);
    }
    routes.push(route);
}

fn transport(handler: &Value) -> Transport {
    let json = &handler["transport"];
    let mut transport = Transport::default();
    let passive = handler.pointer("/health_checks/passive").unwrap_or(&Value::Null);
    if let Some(fail_ms) = ms(&passive["fail_duration"]).filter(|fail_ms| *fail_ms > 0) {
        transport.fail_ms = fail_ms;
        transport.max_fails =
            passive["max_fails"].as_u64().and_then(|fails| fails.try_into().ok()).unwrap_or(1);
    }
    if let Some(connect_ms) = ms(&json["dial_timeout"]).filter(|ms| *ms > 0) {
        transport.connect_ms = connect_ms;
    }
    transport.send_ms = ms(&json["write_timeout"]).unwrap_or(0);
    if json["protocol"] == "fastcgi" {
        transport.protocol = Protocol::Fastcgi;
        transport.read_ms = ms(&json["read_timeout"]).unwrap_or(0);
        transport.keepalive_ms = None;
        return transport;
    }
    transport.read_ms = ms(&json["response_header_timeout"]).unwrap_or(0);
    if json["tls"].is_object() {
        transport.protocol = Protocol::Https;
    }
    let keep = &json["keep_alive"];
    if keep["enabled"].as_bool() == Some(false) {
        transport.keepalive_ms = None;
    } else if let Some(idle_ms) = ms(&keep["idle_timeout"]).filter(|ms| *ms > 0) {
        transport.keepalive_ms = Some(idle_ms);
    }
    transport
}

/// A time: nanoseconds, or words.
fn ms(json: &Value) -> Option<u64> {
    json.as_u64().map(|ns| ns / 1_000_000).or_else(|| duration_ms(json.as_str()?))
}

fn list(json: &Value) -> &[Value] {
    json.as_array().map_or(&[], Vec::as_slice)
}

fn strings(json: &Value) -> impl Iterator<Item = &str> {
    list(json).iter().filter_map(Value::as_str)
}
