//! How long a generated configuration of 10 MB with 20,000 servers takes to be read, and how much memory:
//! `cargo run --profile quick -p why502-gateway --example large -- nginx`.

use std::fmt::Write as _;
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
        "{kind}: {megabytes} MB, {endpoints} endpoints, {problems} problems in {} ms, {} MiB more memory at the peak",
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
    let effective = (kind.read)(&Start {
        argv: vec![kind.name.to_owned()],
        directory: "/".into(),
        root: root.to_owned(),
        ..Start::default()
    });
    (effective.endpoints.len(), effective.problems.len())
}

/// Path and text.
fn generated(kind: &str) -> (&'static str, String) {
    let mut text = String::new();
    let mut add = |words: std::fmt::Arguments<'_>| text.write_fmt(words).expect("memory");
    match kind {
        "haproxy" => {
            add(format_args!("defaults\n  mode http\nfrontend in\n  bind :80\n"));
            for n in 0..SERVERS {
                add(format_args!(
                    "  use_backend b{n} if {{ hdr(host) -i site-{n}.example.com }}\n"
                ));
            }
            for n in 0..SERVERS {
                add(format_args!(
                    "backend b{n}\n  balance roundrobin\n  option httpchk GET /health\n  http-check expect status 200\n  \
                     timeout server 30s\n  timeout connect 5s\n  http-request set-header X-Site site-{n}\n  \
                     http-response set-header X-Served-By b{n}\n  \
                     server s1 10.{}.{}.{}:8080 check inter 5s fall 3 rise 2 weight 100 maxconn 500\n",
                    n / 62_500,
                    n / 250 % 250,
                    n % 250
                ));
            }
            ("/etc/haproxy/haproxy.cfg", text)
        }
        "apache" => {
            add(format_args!("Listen 80\nErrorLog /var/log/apache2/error.log\n"));
            for n in 0..SERVERS {
                add(format_args!(
                    "<VirtualHost *:80>\n  ServerName site-{n}.example.com\n  ServerAlias www.site-{n}.example.com\n  \
                     CustomLog /var/log/apache2/access.log \"%v %h %l %u %t \\\"%r\\\" %>s %O\"\n  ProxyPreserveHost On\n  \
                     ProxyPass /static/ !\n  ProxyPass / http://10.{}.{}.{}:8080/ timeout=30 connectiontimeout=5\n  \
                     ProxyPassReverse / http://10.0.0.1:8080/\n  <Directory /srv/site-{n}>\n    Options -Indexes\n    \
                     AllowOverride None\n    Require all granted\n  </Directory>\n  \
                     RequestHeader set X-Forwarded-Proto \"https\"\n</VirtualHost>\n",
                    n / 62_500,
                    n / 250 % 250,
                    n % 250
                ));
            }
            ("/etc/apache2/apache2.conf", text)
        }
        _ => {
            add(format_args!("http {{\n"));
            for n in 0..SERVERS {
                add(format_args!(
                    "upstream u{n} {{ server 10.{}.{}.{}:8080 max_fails=3; keepalive 16; }}\nserver {{\n  listen 80;\n  \
                     server_name site-{n}.example.com www.site-{n}.example.com;\n  \
                     access_log /var/log/nginx/access.log combined;\n  client_max_body_size 10m;\n  \
                     location / {{\n    proxy_pass http://u{n};\n    proxy_set_header Host $host;\n    \
                     proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n    proxy_read_timeout 30s;\n  }}\n  \
                     location /static/ {{ root /srv/site-{n}; expires 30d; }}\n}}\n",
                    n / 62_500,
                    n / 250 % 250,
                    n % 250
                ));
            }
            add(format_args!("}}\n"));
            ("/etc/nginx/nginx.conf", text)
        }
    }
}

/// VmHWM of proc_pid_status(5).
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
