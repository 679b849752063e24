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
];

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
