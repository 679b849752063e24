//! Names of routes: `NAME[:PORT]PATH` as nginx' are, from the conditions that lead to a backend.
//!
//! Name and path come from the first host and the first path that the condition asks for; the port is that of the first
//! `bind` unless the frontend listens on 80 or 443. Two backends whose conditions cannot be told apart in these words
//! have their own name behind it: ":8080/ static". TCP: "tcp:5432", "tcp:443 a.example".

use std::collections::{BTreeMap, HashMap};

use super::proxy::{Mode, Section};

/// What a condition asks of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asks {
    host: Option<String>,
    path: Option<String>,
}

/// Named conditions of a section, by name: the first line of each.
pub fn acls<'a>(section: &Section<'a>) -> HashMap<&'a str, &'a [String]> {
    let mut acls = HashMap::new();
    for line in section.lines.iter().filter(|line| line.word(0) == "acl") {
        acls.entry(line.word(1)).or_insert(line.behind(2));
    }
    acls
}

/// What the words behind `use_backend NAME` ask for.
pub fn asks(words: &[String], acls: &HashMap<&str, &[String]>) -> Asks {
    let mut asks = Asks::default();
    if words.first().is_none_or(|word| word != "if") {
        return asks;
    }
    let mut rest = &words[1..];
    while let Some((word, after)) = rest.split_first() {
        rest = after;
        match word.as_str() {
            // What stands behind it is another way to the same backend.
            "||" | "or" => break,
            "{" => {
                let end = after.iter().position(|word| word == "}").unwrap_or(after.len());
                term(&after[..end], &mut asks);
                rest = after.get(end + 1..).unwrap_or(&[]);
            }
            name => {
                if let Some(words) = acls.get(name) {
                    term(words, &mut asks);
                }
            }
        }
    }
    asks
}

/// One criterion with its flags and values.
fn term(words: &[String], asks: &mut Asks) {
    let Some((criterion, rest)) = words.split_first() else { return };
    let criterion = criterion.split(',').next().unwrap_or("");
    let (mut method, mut values) = ("", rest.iter().map(String::as_str));
    let value = loop {
        match values.next() {
            Some("-i" | "-n" | "-u") => {}
            Some("-m") => method = values.next().unwrap_or(""),
            // The values are in a file.
            Some("-f" | "-M") | None => return,
            Some("--") => break values.next().unwrap_or(""),
            Some(value) => break value,
        }
    };
    let (name, argument) = criterion.split_once('(').unwrap_or((criterion, ""));
    let argument = argument.trim_end_matches(')');
    let name = name.strip_prefix("req.").unwrap_or(name);
    let host = name.starts_with("hdr") && argument.eq_ignore_ascii_case("host");
    let sni = matches!(name, "ssl_fc_sni" | "req_ssl_sni" | "ssl_sni" | "ssl_fc_sni_end");
    if host || sni {
        asks.host.get_or_insert_with(|| value.to_ascii_lowercase());
        return;
    }
    let Some(kind) = name.strip_prefix("path").or_else(|| name.strip_prefix("url")) else { return };
    let path = match if method.is_empty() { kind.trim_start_matches('_') } else { method } {
        "" | "str" => format!("={value}"),
        "beg" | "dir" => format!("/{}", value.trim_start_matches('/')),
        "reg" => format!("~{value}"),
        "end" => format!("/*{value}"),
        _ => return,
    };
    asks.path.get_or_insert(path);
}

/// What a frontend's routes begin with.
pub fn prefix(mode: Mode, listens: &[String], asks: &Asks) -> String {
    let port =
        |listen: &String| listen.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    let ports: Vec<u16> = listens.iter().filter_map(port).collect();
    let host = asks.host.as_deref().unwrap_or("");
    let first = match (ports.first(), listens.first()) {
        (Some(port), _) => format!(":{port}"),
        (None, Some(listen)) => listen.clone(),
        (None, None) => String::new(),
    };
    if mode == Mode::Tcp {
        let blank = if host.is_empty() { "" } else { " " };
        return format!("tcp{}{first}{blank}{host}", if first.starts_with(':') { "" } else { ":" });
    }
    let usual = ports.contains(&80) || ports.contains(&443);
    let path = asks.path.as_deref().unwrap_or("/");
    format!("{host}{}{path}", if usual { "" } else { &first })
}

/// Names of the ways from frontends to backends.
#[derive(Debug, Default)]
pub struct Routes {
    named: BTreeMap<String, String>,
    /// Name, by frontend and backend.
    pub by_pair: HashMap<(String, String), String>,
    /// The ways in the order of the files.
    pub pairs: Vec<(String, String)>,
}

impl Routes {
    /// Names a way, once.
    pub fn add(&mut self, frontend: &str, backend: &str, name: String) {
        let pair = (frontend.to_owned(), backend.to_owned());
        if self.by_pair.contains_key(&pair) {
            return;
        }
        let taken = self.named.entry(name.clone()).or_insert_with(|| backend.to_owned());
        let name = if taken == backend { name } else { format!("{name} {backend}") };
        self.by_pair.insert(pair.clone(), name);
        self.pairs.push(pair);
    }
}

/// Backends that a section leads to, with the words of the condition; `None`: only a request has the name.
pub fn uses<'a>(section: &Section<'a>) -> impl Iterator<Item = (Option<&'a str>, &'a [String])> {
    let lines = section.lines.iter().filter(|line| line.word(0) == "use_backend");
    lines.map(|line| (Some(line.word(1)).filter(|name| !name.contains('%')), line.behind(2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(mode: Mode, listens: &str, condition: &str, expected: &str) {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let (host, path) = (words("hdr(host) -i Shop.example www"), words("path_beg -i /api /v2"));
        let acls = [("is_shop", host.as_slice()), ("is_api", path.as_slice())].into();
        let asks = asks(&words(condition), &acls);
        assert_eq!(prefix(mode, &words(listens), &asks), expected);
    }

    #[test]
    fn names() {
        let http = Mode::Http;
        check(http, "0.0.0.0:80 0.0.0.0:443", "if is_shop is_api", "shop.example/api");
        check(http, "0.0.0.0:8080", "if { path /health }", ":8080=/health");
        check(
            http,
            "0.0.0.0:8080",
            "if { hdr(host),lower -m dom a.example } || is_api",
            "a.example:8080/",
        );
        check(http, "unix:/run/x.sock", "if { src 10.0.0.0/8 }", "unix:/run/x.sock/");
        check(http, "0.0.0.0:80", "unless is_api", "/");
        check(http, "0.0.0.0:80", "if { path_reg \\.php$ }", "~\\.php$");
        check(Mode::Tcp, "0.0.0.0:443", "if { req_ssl_sni -i A.example }", "tcp:443 a.example");
        check(Mode::Tcp, "unix:/run/x", "", "tcp:unix:/run/x");
    }
}
