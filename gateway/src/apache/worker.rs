//! Where requests are sent: a URL of mod_proxy, and the parameters of its worker.
//!
//! Page: <https://httpd.apache.org/docs/2.4/mod/mod_proxy.html#proxypass>; defaults from
//! `proxy_util.c` of 2.4.

use why502_proto::v1::Protocol;

/// An idle connection without `ttl=` is kept until the peer closes it.
pub const KEPT_UNTIL_CLOSED: u64 = u64::MAX;

/// A scheme that mod_proxy has a module for.
#[derive(Debug)]
pub struct Scheme {
    /// As it is written: "fcgi".
    pub name: &'static str,
    /// What it is in facts.
    pub protocol: Protocol,
    port: u16,
    /// Connections are used again unless `disablereuse` says otherwise; `None`: never.
    reuse: Option<bool>,
}

const SCHEMES: [Scheme; 10] = [
    Scheme { name: "http", protocol: Protocol::Http, port: 80, reuse: Some(true) },
    Scheme { name: "https", protocol: Protocol::Https, port: 443, reuse: Some(true) },
    Scheme { name: "h2c", protocol: Protocol::Http, port: 80, reuse: Some(true) },
    Scheme { name: "h2", protocol: Protocol::Https, port: 443, reuse: Some(true) },
    Scheme { name: "ws", protocol: Protocol::Http, port: 80, reuse: None },
    Scheme { name: "wss", protocol: Protocol::Https, port: 443, reuse: None },
    Scheme { name: "fcgi", protocol: Protocol::Fastcgi, port: 8000, reuse: Some(false) },
    Scheme { name: "uwsgi", protocol: Protocol::Uwsgi, port: 3031, reuse: None },
    Scheme { name: "scgi", protocol: Protocol::Scgi, port: 4000, reuse: None },
    // There is no word for AJP among the protocols; nobody speaks it to a service by mistake.
    Scheme { name: "ajp", protocol: Protocol::Tcp, port: 8009, reuse: Some(true) },
];

/// A URL that requests are sent to.
#[derive(Clone, Debug)]
pub enum Url {
    /// One address.
    Peer {
        /// How it is spoken to.
        scheme: &'static Scheme,
        /// "10.0.0.7:8080", "app-1:80", "unix:/run/x.sock".
        endpoint: String,
    },
    /// `balancer://name`
    Balancer(String),
    /// Only a request tells.
    AtRunTime,
}

/// Reads a URL as in `ProxyPass`, `BalancerMember`, `RewriteRule ... [P]` and behind `proxy:` of
/// `SetHandler`. `None`: it is none that mod_proxy sends to.
pub fn url(text: &str) -> Option<Url> {
    let (socket, text) = match strip_no_case(text, "unix:").and_then(|rest| rest.split_once('|')) {
        Some((path, url)) => (Some(path), url),
        None => (None, text),
    };
    let (scheme, rest) = text.split_once(':')?;
    let rest = rest.strip_prefix("//").unwrap_or(rest);
    let authority = rest.split(['/', '?', '#', '$', '%']).next().unwrap_or_default();
    if scheme.eq_ignore_ascii_case("balancer") {
        return Some(if authority.is_empty() { Url::AtRunTime } else { balancer(authority) });
    }
    let scheme = SCHEMES.iter().find(|known| known.name.eq_ignore_ascii_case(scheme));
    let Some(scheme) = scheme else {
        return text.starts_with(['$', '%']).then_some(Url::AtRunTime);
    };
    if let Some(path) = socket {
        return Some(Url::Peer { scheme, endpoint: format!("unix:{path}") });
    }
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    let named_port = host.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
    let endpoint = match named_port {
        // `http://app:80$1` and `http://app:$1`: the first may only be followed by a path.
        Some((name, port)) if !name.is_empty() && port.parse::<u16>().is_ok() => host.to_owned(),
        Some(_) => return Some(Url::AtRunTime),
        None if host.is_empty() || cut_by_variable(rest, authority) => return Some(Url::AtRunTime),
        None => format!("{host}:{}", scheme.port),
    };
    Some(Url::Peer { scheme, endpoint: endpoint.to_ascii_lowercase() })
}

fn balancer(name: &str) -> Url {
    Url::Balancer(name.to_ascii_lowercase())
}

/// `http://app$1/`: the name goes on in a variable, if that does not begin with a slash, which
/// nobody can know.
fn cut_by_variable(rest: &str, authority: &str) -> bool {
    rest[authority.len()..].starts_with(['$', '%'])
        && !rest[authority.len()..].starts_with("%{REQUEST_URI}")
}

fn strip_no_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let head = text.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &text[prefix.len()..])
}

/// Parameters of a worker; `None` where the configuration does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parameters {
    /// `timeout=`
    pub timeout_ms: Option<u64>,
    /// `connectiontimeout=`
    pub connect_ms: Option<u64>,
    /// `retry=`
    pub retry_ms: Option<u64>,
    /// `ttl=`
    pub ttl_ms: Option<u64>,
    /// `disablereuse=`, `enablereuse=`
    pub reuse: Option<bool>,
    /// `status=`: disabled, stopped or in error from the start.
    pub down: bool,
    /// `status=+H`, `+R`
    pub backup: bool,
}

impl Parameters {
    /// Takes `key=value`; what it does not know says nothing about failures.
    pub fn set(&mut self, word: &str) {
        let Some((key, value)) = word.split_once('=') else { return };
        match key.to_ascii_lowercase().as_str() {
            "timeout" => self.timeout_ms = time_ms(value),
            "connectiontimeout" => self.connect_ms = time_ms(value),
            "retry" => self.retry_ms = time_ms(value),
            "ttl" => self.ttl_ms = time_ms(value),
            "disablereuse" => self.reuse = Some(!value.eq_ignore_ascii_case("on")),
            "enablereuse" => self.reuse = Some(value.eq_ignore_ascii_case("on")),
            "status" => self.status(value),
            _ => {}
        }
    }

    fn status(&mut self, value: &str) {
        let mut on = true;
        for letter in value.chars() {
            match letter.to_ascii_uppercase() {
                '+' => on = true,
                '-' => on = false,
                'D' | 'S' | 'E' => self.down = on,
                'H' | 'R' => self.backup = on,
                _ => {}
            }
        }
    }

    /// These, and where they do not say, `other`.
    pub fn or(&self, other: &Self) -> Self {
        Self {
            timeout_ms: self.timeout_ms.or(other.timeout_ms),
            connect_ms: self.connect_ms.or(other.connect_ms),
            retry_ms: self.retry_ms.or(other.retry_ms),
            ttl_ms: self.ttl_ms.or(other.ttl_ms),
            reuse: self.reuse.or(other.reuse),
            down: self.down || other.down,
            backup: self.backup || other.backup,
        }
    }

    /// How long an idle connection is kept; `None`: none is. `worker`: the configuration names this
    /// address, and not only a rule that leads there.
    pub fn keepalive_ms(&self, scheme: &Scheme, worker: bool) -> Option<u64> {
        let reused = worker && scheme.reuse.is_some_and(|usual| self.reuse.unwrap_or(usual));
        reused.then(|| self.ttl_ms.unwrap_or(KEPT_UNTIL_CLOSED))
    }
}

/// "60", "5s", "500ms", "2min", "1h": seconds without a unit.
pub fn time_ms(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..end].parse().ok()?;
    let unit = match text[end..].to_ascii_lowercase().as_str() {
        "" | "s" => 1000,
        "ms" => 1,
        "mi" | "min" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    number.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        match url(text) {
            Some(Url::Peer { scheme, endpoint }) => format!("{} {endpoint}", scheme.name),
            Some(Url::Balancer(name)) => format!("balancer {name}"),
            Some(Url::AtRunTime) => "at run time".to_owned(),
            None => "none".to_owned(),
        }
    }

    #[test]
    fn urls() {
        for (text, expected) in [
            ("http://app:8080/x", "http app:8080"),
            ("HTTP://App/", "http app:80"),
            ("http://10.0.0.7:8080$1", "http 10.0.0.7:8080"),
            ("http://[::1]:9000/", "http [::1]:9000"),
            ("https://[::1]/", "https [::1]:443"),
            ("unix:/run/a.sock|http://localhost/x", "http unix:/run/a.sock"),
            (
                "unix:/run/php/php8.2-fpm.sock|fcgi://localhost",
                "fcgi unix:/run/php/php8.2-fpm.sock",
            ),
            ("fcgi://127.0.0.1:9000/srv/$1", "fcgi 127.0.0.1:9000"),
            ("ajp://tomcat:8009/", "ajp tomcat:8009"),
            ("balancer://Pool%{REQUEST_URI}", "balancer pool"),
            ("http://app%{REQUEST_URI}", "http app:80"),
            ("http://$1:80/", "at run time"),
            ("http://app-$1/", "at run time"),
            ("http://%{HTTP_HOST}/", "at run time"),
            ("https://$1", "at run time"),
            ("/local", "none"),
            ("ftp://x/", "none"),
            ("!", "none"),
        ] {
            assert_eq!(shown(text), expected, "{text}");
        }
    }

    #[test]
    fn parameters() {
        let mut of = Parameters::default();
        for word in
            ["timeout=5", "connectiontimeout=250ms", "retry=0", "status=+H-D", "nocanon", "x=y"]
        {
            of.set(word);
        }
        let expected = Parameters {
            timeout_ms: Some(5000),
            connect_ms: Some(250),
            retry_ms: Some(0),
            backup: true,
            ..Parameters::default()
        };
        assert_eq!(of, expected);
        let [http, .., ajp] = &SCHEMES;
        assert_eq!(of.keepalive_ms(http, true), Some(KEPT_UNTIL_CLOSED));
        assert_eq!(of.keepalive_ms(ajp, false), None);
        of.set("disablereuse=On");
        assert_eq!(of.keepalive_ms(http, true), None);
        assert_eq!(
            (time_ms("2min"), time_ms("x"), time_ms("99999999999999999999")),
            (Some(120_000), None, None)
        );
    }
}
