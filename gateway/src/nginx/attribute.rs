//! Which route a request took: nginx's choice of server and location, from what a log line tells.
//!
//! Follows `ngx_http_core_find_location`. A log line shows the request as it came, and `try_files`, `rewrite` and
//! `error_page` may have sent it to another location since; so the location that declares the peer of the line wins
//! over the one that the path alone would choose.

use super::config::{Config, Location, Matcher, Server};

/// What a log line tells of a request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// Name of the server block.
    pub server: &'a str,
    /// `Host:` with its port, if it was logged.
    pub host: &'a str,
    /// Path without query, as it was sent.
    pub path: &'a str,
    /// "10.0.0.7:8080", "unix:/run/app.sock"; the name of the group where no peer was chosen; "" where nothing was
    /// logged.
    pub peer: &'a str,
}

/// The location that the request took; `None` where several are as likely, or none fits.
pub fn attribute<'a>(config: &'a Config, request: Request<'_>) -> Option<&'a Location> {
    let servers: Vec<&Server> = candidates(config, request);
    let path = normalized(request.path);
    let by_path: Vec<&Location> =
        servers.iter().filter_map(|server| reached(server, &path)).collect();
    if request.peer.is_empty() {
        return by_path.first().copied();
    }
    let fits = |location: &&Location| sends_to(location, request.peer);
    let everywhere = || {
        let all = servers.iter().flat_map(|server| all(&server.locations)).find(fits);
        all.or_else(|| runtime_named(&servers))
    };
    by_path
        .iter()
        .copied()
        .find(fits)
        .or_else(|| by_path.iter().copied().find(|location| knows_at_run_time(location)))
        .or_else(everywhere)
        .or(by_path.first().copied())
}

/// Servers of that name; those on the port of `Host:` first.
fn candidates<'a>(config: &'a Config, request: Request<'_>) -> Vec<&'a Server> {
    let port = super::pass::port_of(request.host.rsplit_once(':').map_or("", |(_, port)| port));
    let mut servers: Vec<&Server> = config
        .servers
        .iter()
        .filter(|server| !server.stream && server.name == request.server)
        .collect();
    servers.sort_by_key(|server| match port {
        Some(port) => !server.ports.contains(&port),
        None => !server.ports.contains(&80) && !server.ports.contains(&443),
    });
    servers
}

/// The location of a stream server that sends to `peer`.
pub fn stream<'a>(config: &'a Config, peer: &str) -> Option<&'a Location> {
    let servers = config.servers.iter().filter(|server| server.stream);
    servers.flat_map(|server| &server.locations).find(|location| sends_to(location, peer))
}

fn all(locations: &[Location]) -> Vec<&Location> {
    locations.iter().flat_map(|at| std::iter::once(at).chain(all(&at.nested))).collect()
}

fn sends_to(location: &Location, peer: &str) -> bool {
    location.passes.iter().any(|pass| pass.upstream == peer || pass.host == peer)
        || location.peers().any(|(_, declared)| {
            declared.endpoint == peer || declared.addresses.iter().any(|address| address == peer)
        })
}

/// It sends somewhere that only nginx knows.
fn knows_at_run_time(location: &Location) -> bool {
    location.peers().any(|(_, peer)| peer.addresses.is_empty())
}

fn runtime_named<'a>(servers: &[&'a Server]) -> Option<&'a Location> {
    servers.iter().flat_map(|server| all(&server.locations)).find(|at| knows_at_run_time(at))
}

/// Where a request for `path` ends: its location, or where `try_files` of that leads when the path looks like no file.
fn reached<'a>(server: &'a Server, path: &str) -> Option<&'a Location> {
    let location = find(&server.locations, path).map(|at| at.0);
    let fallback = match location {
        Some(location) if !location.passes.is_empty() => return Some(location),
        Some(location) => location.fallback.as_ref(),
        None => server.fallback.as_ref(),
    };
    let file = path.rsplit('/').next().unwrap_or("").contains('.');
    let Some(fallback) = fallback.filter(|_| !file) else { return location };
    let target = if fallback.starts_with('@') {
        all(&server.locations)
            .into_iter()
            .find(|at| matches!(&at.matcher, Matcher::Named(name) if name == fallback))
    } else {
        find(&server.locations, fallback.split(['?', '$']).next().unwrap_or("/")).map(|at| at.0)
    };
    target.or(location)
}

/// The location for `path` among `locations`, and whether regexes of outer levels may still be asked.
fn find<'a>(locations: &'a [Location], path: &str) -> Option<(&'a Location, bool)> {
    let mut best: Option<(&Location, usize, bool)> = None;
    for location in locations {
        match &location.matcher {
            Matcher::Exact(exact) if exact == path => return Some((location, false)),
            Matcher::Prefix(prefix, final_)
                if path.starts_with(prefix.as_str())
                    && best.is_none_or(|(_, length, _)| prefix.len() > length) =>
            {
                best = Some((location, prefix.len(), *final_));
            }
            _ => {}
        }
    }
    let inner = best.and_then(|(location, ..)| find(&location.nested, path));
    let ask = best.is_none_or(|(.., final_)| !final_) && inner.is_none_or(|(_, ask)| ask);
    if ask {
        let regex = locations.iter().find(|location| {
            matches!(&location.matcher, Matcher::Regex(Some(regex)) if regex.is_match(path))
        });
        if let Some(location) = regex {
            let nested = find(&location.nested, path).map_or(location, |at| at.0);
            return Some((nested, false));
        }
    }
    inner.map(|(location, _)| (location, ask)).or(best.map(|(location, ..)| (location, ask)))
}

/// Decoded, slashes merged, dots resolved, as nginx does before it looks for a location.
pub fn normalized(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = path.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(value) => {
                decoded.push(value);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    let decoded = String::from_utf8_lossy(&decoded);
    let mut parts: Vec<&str> = Vec::new();
    for part in decoded.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            _ => parts.push(part),
        }
    }
    let directory = decoded.ends_with(['/']) || decoded.ends_with("/.") || decoded.ends_with("/..");
    let tail = if directory && !parts.is_empty() { "/" } else { "" };
    format!("/{}{tail}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::super::config::effective;
    use super::super::syntax::parse;
    use super::super::version::Version;
    use super::*;

    const CONFIG: &str = r"
        http {
            upstream pool { server 10.0.0.1:80; server 10.0.0.2:80; }
            server {
                listen 80; server_name shop.example;
                location / { try_files $uri $uri/ /index.php?$args; }
                location = /health { proxy_pass http://10.0.0.9:80; }
                location /api { proxy_pass http://pool; location /api/deep { proxy_pass http://10.0.0.3:80; } }
                location ^~ /api/raw/ { proxy_pass http://10.0.0.4:80; }
                location ~ \.php$ { fastcgi_pass unix:/run/php.sock; }
                location ~* \.JPG$ { proxy_pass http://10.0.0.5:80; }
            }
            server { listen 8080; server_name shop.example; location / { proxy_pass http://10.0.0.6:80; } }
            server { listen 80; server_name run.example; location / { proxy_pass http://$host; } }
        }";

    #[track_caller]
    fn check(server: &str, host: &str, path: &str, peer: &str, expected: &str) {
        let (directives, _) = parse(CONFIG.as_bytes(), &"f".into());
        let config = effective(&directives, Version::default(), "h");
        let found = attribute(&config, Request { server, host, path, peer });
        assert_eq!(found.map_or("", |location| location.route.as_str()), expected);
    }

    #[test]
    fn by_path_as_nginx_chooses() {
        check("shop.example", "shop.example", "/health", "", "shop.example=/health");
        check("shop.example", "shop.example", "/api/x", "", "shop.example/api");
        check("shop.example", "shop.example", "/api//deep/%61", "", "shop.example/api/deep");
        check("shop.example", "shop.example", "/api/raw/a.php", "", "shop.example/api/raw/");
        check("shop.example", "shop.example", "/api/x/../y.php", "", "shop.example~\\.php$");
        check("shop.example", "shop.example", "/a.jpg", "", "shop.example~*\\.JPG$");
        check("shop.example", "shop.example:8080", "/api", "", "shop.example:8080/");
        check("other.example", "", "/", "", "");
    }

    #[test]
    fn try_files_leads_on_unless_it_may_be_a_file() {
        check("shop.example", "", "/hello-world/", "", "shop.example~\\.php$");
        check("shop.example", "", "/style.css", "", "shop.example/");
    }

    #[test]
    fn the_peer_decides() {
        check("shop.example", "", "/style.css", "unix:/run/php.sock", "shop.example~\\.php$");
        check("shop.example", "", "/api/x", "10.0.0.2:80", "shop.example/api");
        check("shop.example", "", "/api/x", "pool", "shop.example/api");
        check("shop.example", "", "/api/x", "10.0.0.6:80", "shop.example:8080/");
        check("run.example", "", "/x", "10.9.9.9:80", "run.example/");
    }

    #[test]
    fn paths_are_normalized() {
        for (path, expected) in [
            ("/a//b/./c", "/a/b/c"),
            ("/a/%2e%2e/b/", "/b/"),
            ("/../..", "/"),
            ("", "/"),
            ("/%zz%", "/%zz%"),
            ("/%c3%a9", "/é"),
        ] {
            assert_eq!(normalized(path), expected);
        }
    }
}
