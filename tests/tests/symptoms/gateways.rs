//! How each gateway is told to send each path to its own origin.

use std::fmt::Write as _;

use super::{Symptom, To};

/// A gateway on the test host.
pub(crate) struct Gateway {
    /// Its name in the table.
    pub name: &'static str,
    /// The unit that it runs as.
    pub unit: &'static str,
    /// Where it listens.
    pub port: u16,
    /// Part of its facts and of no other's: the instance.
    pub instance: &'static str,
    /// Paths and texts of its files.
    pub files: fn(&[Symptom]) -> Vec<(&'static str, String)>,
}

impl Gateway {
    /// Whether a fact is about it.
    pub(crate) fn owns(&self, fact: &str) -> bool {
        fact.contains(&format!("instance={} ", self.instance))
    }
}

/// All of them.
pub(crate) const GATEWAYS: &[Gateway] = &[
    Gateway {
        name: "nginx 1.22",
        unit: "nginx",
        port: 8081,
        instance: "/etc/nginx/nginx.conf",
        files: |symptoms| vec![("/etc/nginx/conf.d/symptoms.conf", nginx(8081, symptoms))],
    },
    Gateway {
        name: "nginx 1.31",
        unit: "nginx-new",
        port: 8087,
        instance: "/etc/nginx-new.conf",
        files: |symptoms| {
            let main = "pid /run/nginx-new.pid;\nerror_log /var/log/nginx/new-error.log;\nevents {}\nhttp {\n\
                        access_log /var/log/nginx/new-access.log;\n";
            let unit = "[Service]\nExecStart=/opt/why502-test-gateways/nginx-1.31 -p /run -c /etc/nginx-new.conf \
                        -g \"daemon off;\"\n";
            vec![
                ("/etc/nginx-new.conf", format!("{main}{}}}\n", nginx(8087, symptoms))),
                ("/etc/systemd/system/nginx-new.service", unit.to_owned()),
            ]
        },
    },
    Gateway {
        name: "HAProxy 2.6",
        unit: "haproxy",
        port: 8082,
        instance: "/etc/haproxy/haproxy.cfg",
        files: |symptoms| vec![("/etc/haproxy/haproxy.cfg", haproxy(8082, symptoms))],
    },
    Gateway {
        name: "Apache httpd 2.4",
        unit: "apache2",
        port: 8083,
        instance: "/etc/apache2/apache2.conf",
        files: |symptoms| {
            // Listens on the port of the distribution's own site no more.
            vec![
                ("/etc/apache2/ports.conf", "Listen 127.0.0.1:8083\n".to_owned()),
                ("/etc/apache2/sites-enabled/000-default.conf", apache(symptoms)),
            ]
        },
    },
    Gateway {
        name: "Envoy 1.40",
        unit: "envoy",
        port: 8086,
        instance: "/etc/envoy/envoy.yaml",
        files: |symptoms| {
            let unit = "[Service]\nLogsDirectory=envoy\nExecStart=/opt/why502-test-gateways/envoy -c \
                        /etc/envoy/envoy.yaml --log-level warn --file-flush-interval-msec 100\n";
            vec![
                ("/etc/envoy/envoy.yaml", envoy(symptoms)),
                ("/etc/systemd/system/envoy.service", unit.to_owned()),
            ]
        },
    },
    Gateway {
        name: "Traefik 3.7",
        unit: "traefik",
        port: 8085,
        instance: "/etc/traefik/traefik.yml",
        files: |symptoms| {
            let main = "entryPoints: {web: {address: \"127.0.0.1:8085\"}}\n\
                        providers: {file: {filename: /etc/traefik/dynamic.yml}}\n\
                        global: {checkNewVersion: false, sendAnonymousUsage: false}\n\
                        accessLog: {filePath: /var/log/traefik/access.log}\n";
            let unit = "[Service]\nLogsDirectory=traefik\nExecStart=/opt/why502-test-gateways/traefik \
                        --configFile=/etc/traefik/traefik.yml\n";
            vec![
                ("/etc/traefik/traefik.yml", main.to_owned()),
                ("/etc/traefik/dynamic.yml", traefik(symptoms)),
                ("/etc/systemd/system/traefik.service", unit.to_owned()),
            ]
        },
    },
];

fn haproxy(port: u16, symptoms: &[Symptom]) -> String {
    let mut text = format!(
        "global\n  log /dev/log local0\n  user haproxy\ndefaults\n  log global\n  mode http\n  option httplog\n  \
         timeout connect 1s\n  timeout client 20s\n  timeout server 1s\n  retries 1\nfrontend web\n  \
         bind 127.0.0.1:{port}\n"
    );
    for Symptom { name, .. } in symptoms {
        writeln!(text, "  use_backend {name} if {{ path_beg /{name}/ }}").unwrap();
    }
    for Symptom { name, to } in symptoms {
        let server = match to {
            To::Address(address) => format!("{address} init-addr libc,none"),
            To::Port(port) => format!("127.0.0.1:{port}"),
            To::Tls(port) => format!("127.0.0.1:{port} ssl verify none"),
            To::Checked(port) => {
                format!(
                    "127.0.0.1:{port} ssl verify required ca-file /etc/ssl/certs/ca-certificates.crt"
                )
            }
            To::Unix(path) => format!("unix@{path}"),
        };
        writeln!(text, "backend {name}\n  server one {server}").unwrap();
    }
    text
}

fn apache(symptoms: &[Symptom]) -> String {
    let mut text = String::from(
        "LoadModule proxy_module /usr/lib/apache2/modules/mod_proxy.so\n\
         LoadModule proxy_http_module /usr/lib/apache2/modules/mod_proxy_http.so\n\
         LoadModule socache_shmcb_module /usr/lib/apache2/modules/mod_socache_shmcb.so\n\
         LoadModule ssl_module /usr/lib/apache2/modules/mod_ssl.so\n\
         <VirtualHost 127.0.0.1:8083>\n  SSLProxyEngine on\n  SSLProxyVerify none\n  \
         SSLProxyCheckPeerName off\n  ErrorLog /var/log/apache2/error.log\n  \
         CustomLog /var/log/apache2/access.log combined\n",
    );
    for Symptom { name, to } in symptoms {
        let target = match to {
            To::Port(port) => format!("http://127.0.0.1:{port}"),
            To::Address(address) => format!("http://{address}"),
            To::Tls(port) | To::Checked(port) => format!("https://127.0.0.1:{port}"),
            To::Unix(path) => format!("unix:{path}|http://{name}.example"),
        };
        let checked = if matches!(to, To::Checked(_)) {
            "SSLProxyVerify require\n    SSLProxyCACertificateFile /etc/ssl/certs/ca-certificates.crt"
        } else {
            ""
        };
        writeln!(
            text,
            "  <Location /{name}/>\n    ProxyPass {target}/ connectiontimeout=1 timeout=1 retry=0\n  </Location>\n  \
             <Proxy {target}/>\n    {checked}\n  </Proxy>"
        )
        .unwrap();
    }
    text + "</VirtualHost>\n"
}

fn envoy(symptoms: &[Symptom]) -> String {
    let mut routes = String::new();
    let mut clusters = String::new();
    for Symptom { name, to } in symptoms {
        writeln!(
            routes,
            "              - {{match: {{prefix: /{name}/}}, route: {{cluster: {name}, timeout: 2s}}}}"
        )
        .unwrap();
        let (kind, address) = match to {
            To::Unix(path) => ("STATIC", format!("pipe: {{path: {path}}}")),
            To::Port(port) | To::Tls(port) | To::Checked(port) => {
                ("STATIC", format!("socket_address: {{address: 127.0.0.1, port_value: {port}}}"))
            }
            To::Address(address) => {
                let (host, port) = address.split_once(':').unwrap();
                let kind = if host.ends_with("invalid") { "STRICT_DNS" } else { "STATIC" };
                (kind, format!("socket_address: {{address: {host}, port_value: {port}}}"))
            }
        };
        let context = match to {
            To::Tls(_) => "{}",
            To::Checked(_) => {
                "{validation_context: {trusted_ca: {filename: /etc/ssl/certs/ca-certificates.crt}}}"
            }
            _ => "",
        };
        let tls = if context.is_empty() {
            String::new()
        } else {
            format!(
                "\n    transport_socket:\n      name: envoy.transport_sockets.tls\n      typed_config:\n        \
                 \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext\n        \
                 common_tls_context: {context}"
            )
        };
        writeln!(
            clusters,
            "  - name: {name}\n    type: {kind}\n    connect_timeout: 1s{tls}\n    load_assignment:\n      \
             cluster_name: {name}\n      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{{address}}}}}}}]}}]"
        )
        .unwrap();
    }
    ENVOY.replace("ROUTES\n", &routes).replace("CLUSTERS\n", &clusters)
}

const ENVOY: &str = r#"
static_resources:
  listeners:
  - address: {socket_address: {address: 127.0.0.1, port_value: 8086}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: /var/log/envoy/access.log
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
ROUTES
  clusters:
CLUSTERS
"#;

fn traefik(symptoms: &[Symptom]) -> String {
    let mut routers = String::from("http:\n  routers:\n");
    let mut services = String::from("  services:\n");
    for Symptom { name, to } in symptoms {
        // Traefik knows no unix sockets.
        let (url, transport) = match to {
            To::Unix(_) => continue,
            To::Port(port) => (format!("http://127.0.0.1:{port}"), "plain"),
            To::Address(address) => (format!("http://{address}"), "plain"),
            To::Tls(port) => (format!("https://127.0.0.1:{port}"), "unchecked"),
            To::Checked(port) => (format!("https://127.0.0.1:{port}"), "plain"),
        };
        writeln!(routers, "    {name}: {{rule: \"PathPrefix(`/{name}/`)\", service: {name}}}")
            .unwrap();
        writeln!(
            services,
            "    {name}: {{loadBalancer: {{serversTransport: {transport}, servers: [{{url: \"{url}\"}}]}}}}"
        )
        .unwrap();
    }
    let timeouts = "forwardingTimeouts: {dialTimeout: 1s, responseHeaderTimeout: 1s}";
    format!(
        "{routers}{services}  serversTransports:\n    plain: {{{timeouts}}}\n    \
         unchecked: {{insecureSkipVerify: true, {timeouts}}}\n"
    )
}

fn nginx(port: u16, symptoms: &[Symptom]) -> String {
    let mut text = format!(
        "server {{\n  listen 127.0.0.1:{port};\n  proxy_connect_timeout 1s;\n  proxy_read_timeout 1s;\n  \
         proxy_ssl_trusted_certificate /etc/ssl/certs/ca-certificates.crt;\n"
    );
    for Symptom { name, to } in symptoms {
        let pass = match to {
            // A name that does not resolve would not let nginx start.
            To::Address(name) if name.contains(".invalid") => {
                format!("set $name {name}; proxy_pass http://$name;")
            }
            To::Address(address) => format!("proxy_pass http://{address};"),
            To::Port(port) => format!("proxy_pass http://127.0.0.1:{port};"),
            To::Tls(port) => format!("proxy_pass https://127.0.0.1:{port};"),
            To::Checked(port) => {
                format!("proxy_ssl_verify on; proxy_pass https://127.0.0.1:{port};")
            }
            To::Unix(path) => format!("proxy_pass http://unix:{path}:;"),
        };
        writeln!(text, "  location /{name}/ {{ {pass} }}").unwrap();
    }
    text + "}\n"
}
