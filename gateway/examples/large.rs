//! How long a generated configuration of 10 MB with 20,000 servers takes to be read, and how much memory:
//! `cargo run --profile quick -p why502-gateway --example large -- nginx`.

use std::fs;
use std::path::Path;
use std::time::Instant;

use why502_gateway::effective::Start;
use why502_gateway::kind::KINDS;
use why502_gateway::nginx::version::Build;
use why502_gateway::nginx::{Options, declared, paths, read};

const SERVERS: usize = 20_000;

#[expect(clippy::print_stdout, reason = "its output is what it is for")]
fn main() {
    let kind = std::env::args().nth(1).unwrap_or_else(|| "nginx".to_owned());
    let root = std::env::temp_dir().join(format!("why502-large-{}", std::process::id()));
    let (path, text) = generated(&kind);
    let file = root.join(path.trim_start_matches('/'));
    fs::create_dir_all(file.parent().expect("an absolute path")).expect("a writable /tmp");
    fs::write(&file, &text).expect("a writable /tmp");
    let megabytes = text.len() / 1_000_000;
    drop(text);
    let before = peak_kib();
    let begun = Instant::now();
    let (endpoints, problems) = take(&kind, &root, path);
    println!(
        "{kind}: {megabytes} MB, {endpoints} endpoints, {problems} problems in {} ms, \
         {} MiB more memory at the peak",
        begun.elapsed().as_millis(),
        (peak_kib() - before) / 1024
    );
    let _ = fs::remove_dir_all(root);
}

fn take(kind: &str, root: &Path, path: &str) -> (usize, usize) {
    if kind == "nginx" {
        let paths = paths(&Build::default(), &Options::default(), None);
        let effective = read(root, &paths, "", "1.22.1", "web-1");
        return (declared(&effective.config, path).len(), effective.problems.len());
    }
    let kind = KINDS.iter().find(|known| known.name == kind).expect("a kind of gateway");
    // Where the main file is not the large one.
    let file = format!("--providers.file.filename={path}");
    let effective = (kind.read)(&Start {
        argv: vec![kind.name.to_owned(), file],
        directory: "/".into(),
        root: root.to_owned(),
        ..Start::default()
    });
    (effective.endpoints.len(), effective.problems.len())
}

const NGINX: &str = "
upstream uN { server ADDRESS:8080 max_fails=3; keepalive 16; }
server {
  listen 80;
  server_name site-N.example.com www.site-N.example.com;
  access_log /var/log/nginx/access.log combined;
  client_max_body_size 10m;
  location / {
    proxy_pass http://uN;
    proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
    proxy_read_timeout 30s;
  }
  location /static/ { root /srv/site-N; expires 30d; }
}
";
const HAPROXY: &str = "
backend bN
  balance roundrobin
  option httpchk GET /health
  http-check expect status 200
  timeout server 30s
  timeout connect 5s
  http-request set-header X-Site site-N
  http-response set-header X-Served-By bN
  server s1 ADDRESS:8080 check inter 5s fall 3 rise 2 weight 100 maxconn 500
";
const ENVOY: &str = "
  - name: cN
    connect_timeout: 1s
    type: STATIC
    lb_policy: MAGLEV
    circuit_breakers: {thresholds: [{max_connections: 100}]}
    load_assignment:
      cluster_name: cN
      endpoints:
      - lb_endpoints:
        - endpoint:
            address:
              socket_address:
                address: ADDRESS
                port_value: 8080
";
const ENVOY_HOST: &str = "
            - name: hN
              domains: [site-N.example.com, www.site-N.example.com]
              routes:
              - {match: {prefix: /}, route: {cluster: cN, timeout: 30s}}
";
const ENVOY_HEAD: &str = "
static_resources:
  listeners:
  - address: {socket_address: {address: 0.0.0.0, port_value: 80}}
    filter_chains:
    - filters:
      - typed_config:
          '@type': type.googleapis.com/x.HttpConnectionManager
          route_config:
            virtual_hosts:
";
const TRAEFIK_ROUTER: &str = "
    rN:
      rule: Host(`site-N.example.com`) && PathPrefix(`/api/version-1`)
      entryPoints: [web, websecure]
      middlewares: [compress, headers, limit]
      service: sN
      tls: {certResolver: letsencrypt}
";
const TRAEFIK_SERVICE: &str = "
    sN:
      loadBalancer:
        passHostHeader: true
        healthCheck: {path: /health, interval: 10s, timeout: 3s}
        servers:
        - url: http://ADDRESS:8080
";

/// Path and text.
fn generated(kind: &str) -> (&'static str, String) {
    let address = |n: usize| format!("10.{}.{}.{}", n / 62_500, n / 250 % 250, n % 250);
    let all = |template: &str| -> String {
        let one = |n| template.replace("ADDRESS", &address(n)).replace('N', &n.to_string());
        (0..SERVERS).map(one).collect()
    };
    match kind {
        "haproxy" => {
            let uses = all("  use_backend bN if { hdr(host) -i site-N.example.com }\n");
            let head = "defaults\n  mode http\nfrontend in\n  bind :80\n";
            ("/etc/haproxy/haproxy.cfg", format!("{head}{uses}{}", all(HAPROXY)))
        }
        "envoy" => {
            let (hosts, clusters) = (all(ENVOY_HOST), all(ENVOY));
            let text = format!("{ENVOY_HEAD}{hosts}  clusters:\n{clusters}");
            ("/etc/envoy/envoy.yaml", text)
        }
        "traefik" => {
            let (routers, services) = (all(TRAEFIK_ROUTER), all(TRAEFIK_SERVICE));
            let text = format!("http:\n  routers:\n{routers}  services:\n{services}");
            ("/etc/traefik/dynamic.yml", text)
        }
        _ => ("/etc/nginx/nginx.conf", format!("http {{\n{}}}\n", all(NGINX))),
    }
}

/// VmHWM of proc_pid_status(5).
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
