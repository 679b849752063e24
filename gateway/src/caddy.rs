//! Caddy 2: what its configuration declares, and what its loggers say.
//!
//! Documentation: <https://caddyserver.com/docs/>. It is read from the Caddyfile or JSON that the
//! program was started
//! with, or from the copy of the last one that it keeps (`--resume`); what it runs with is asked
//! of its admin interface.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use self::config::Config;
use self::lines::CaddyLines;
use self::load::Loader;
use crate::effective::{Admin, Effective, Log, Speech, Start, Target};
use crate::files::{Files, below};
use crate::kind::Kind;
use crate::place::Place;

pub mod caddyfile;
pub mod config;
pub mod entry;
pub mod json;
pub mod lines;
pub mod load;
pub mod message;
pub mod syntax;

/// The program's name in facts.
pub const NAME: &str = "caddy";

/// What it brings.
pub const KIND: Kind = Kind {
    name: NAME,
    programs: &["caddy"],
    version_args: &["version"],
    version,
    usual: &["/etc/caddy/Caddyfile"],
    follows_files: false,
    read,
    answered,
    knows: entry::knows,
    lines: || Box::new(CaddyLines::new("", Arc::default())),
};

/// "2.11.7" of "v2.11.7 h1:...".
fn version(text: &str) -> Option<String> {
    let word = text.split_whitespace().next()?.trim_start_matches('v');
    word.starts_with(|c: char| c.is_ascii_digit()).then(|| word.to_owned())
}

/// What its words say.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    command: String,
    config: Option<String>,
    adapter: Option<String>,
    resume: bool,
    from: Option<String>,
    to: Vec<String>,
}

impl Options {
    fn parse(argv: &[String]) -> Self {
        let mut options = Self::default();
        let mut words = argv.iter().skip(1);
        while let Some(word) = words.next() {
            let (flag, glued) = word
                .split_once('=')
                .map_or((word.as_str(), None), |(f, v)| (f, Some(v.to_owned())));
            match flag.trim_start_matches('-') {
                name if !flag.starts_with('-') && options.command.is_empty() => {
                    name.clone_into(&mut options.command);
                }
                _ if !flag.starts_with('-') => {}
                "config" | "c" => options.config = glued.or_else(|| words.next().cloned()),
                "adapter" | "a" => options.adapter = glued.or_else(|| words.next().cloned()),
                "from" | "f" => options.from = glued.or_else(|| words.next().cloned()),
                "to" | "t" => options.to.extend(glued.or_else(|| words.next().cloned())),
                "resume" | "r" => options.resume = true,
                _ => {}
            }
        }
        options
    }
}

/// Reads the configuration that `start` leads to.
fn read(start: &Start) -> Effective {
    let options = Options::parse(&start.argv);
    if options.command == "reverse-proxy" {
        return reverse_proxy(&options);
    }
    let saved = saved(start).filter(|path| options.resume && below(&start.root, path).exists());
    let path = saved.unwrap_or_else(|| {
        let named = options.config.as_ref().map(|config| start.directory.join(config));
        let usual = || {
            // Without words `run` takes the Caddyfile of its directory.
            let own = start.directory.join("Caddyfile");
            let own = (options.command == "run").then_some(own);
            own.filter(|path| below(&start.root, path).exists())
        };
        named.or_else(usual).unwrap_or_else(|| KIND.usual[0].into())
    });
    let instance = path.to_string_lossy().into_owned();
    let from = Place { file: instance.as_str().into(), line: 0 };
    let mut loader = Loader::new(Files::new(&start.root), &start.environment);
    let text = loader.text(&path, &from);
    let is_json =
        options.adapter.is_none() && path.extension().is_some_and(|found| found == "json");
    let mut config = match &text {
        Some(text) if is_json => match serde_json::from_str::<Value>(text) {
            Ok(json) => json::effective(&json, &instance),
            Err(error) => {
                let line = u32::try_from(error.line()).unwrap_or(0);
                let place = Place { file: instance.as_str().into(), line };
                let text = "is no JSON".to_owned();
                loader.problems.push(crate::place::Problem { place, text });
                Config::default()
            }
        },
        Some(text) => caddyfile::effective(&loader.main(text, &path)),
        None => Config::default(),
    };
    let mut problems = std::mem::take(&mut config.problems);
    problems.append(&mut loader.problems);
    Effective {
        problems: problems.into_iter().collect(),
        watched: loader.watched(),
        readable: text.is_some(),
        ..effective(config, instance)
    }
}

/// Where it keeps the last configuration that it took: `$XDG_CONFIG_HOME/caddy/autosave.json`.
fn saved(start: &Start) -> Option<PathBuf> {
    let variable = |name: &str| start.environment.get(name).filter(|value| !value.is_empty());
    let home = || variable("HOME").map(|home| Path::new(home).join(".config"));
    // Debian's unit runs as the user caddy, whose home this is.
    let usual = || Some(PathBuf::from("/var/lib/caddy/.config"));
    let directory = variable("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home).or_else(usual)?;
    Some(directory.join("caddy/autosave.json"))
}

/// `caddy reverse-proxy --from :8080 --to app:80`
fn reverse_proxy(options: &Options) -> Effective {
    let to = options.to.join(" ");
    let from = options.from.as_deref().unwrap_or("localhost");
    let text = format!("{from} {{\nreverse_proxy {to}\n}}\n");
    let (nodes, _) = syntax::parse(&text, &"command line".into());
    let config = caddyfile::effective(&nodes);
    Effective { readable: true, ..effective(config, format!("caddy reverse-proxy {from}")) }
}

fn effective(config: Config, instance: String) -> Effective {
    let endpoints = endpoints(&config, &instance);
    let listens = config.listens.iter().cloned().collect();
    let admin = config.admin.clone().map(|address| Admin {
        speech: Speech::Http,
        address,
        questions: vec!["/config/".to_owned()],
        // Caddy writes a line into its log for each question, and one when it takes another configuration.
        every: Duration::from_secs(300),
    });
    let targets = config.logs.clone();
    let config = Arc::new(config);
    let mut logs: BTreeMap<Target, CaddyLines> = BTreeMap::new();
    for target in targets {
        logs.entry(target).or_insert_with(|| CaddyLines::new(&instance, config.clone()));
    }
    let logs = logs.into_iter().map(|(target, lines)| Log { target, lines: Box::new(lines) });
    Effective { logs: logs.collect(), instance, endpoints, listens, admin, ..Effective::default() }
}

fn endpoints(config: &Config, instance: &str) -> Vec<why502_proto::v1::EndpointDeclared> {
    let mut endpoints: Vec<why502_proto::v1::EndpointDeclared> = Vec::new();
    let mut told = std::collections::BTreeSet::new();
    for peer in config.routes.iter().flat_map(|route| &route.peers) {
        if told.insert((peer.route.as_str(), peer.endpoint.as_str())) {
            let instance = instance.to_owned();
            endpoints.push(why502_proto::v1::EndpointDeclared { instance, ..peer.clone() });
        }
    }
    endpoints
}

/// Takes what it runs with; where that was declared is only in the files.
fn answered(effective: &mut Effective, answers: &[String]) {
    let json = answers.first().and_then(|answer| serde_json::from_str::<Value>(answer).ok());
    // "null": it runs with none yet.
    let Some(json) = json.filter(Value::is_object) else { return };
    let place = "admin interface";
    let config = json::effective(&json, place);
    let mut running = endpoints(&config, &effective.instance);
    for fact in &mut running {
        let same = effective
            .endpoints
            .iter()
            .find(|declared| declared.route == fact.route && declared.endpoint == fact.endpoint);
        if let Some(declared) = same {
            fact.file.clone_from(&declared.file);
            fact.line = declared.line;
        }
    }
    effective.endpoints = running;
    effective.listens = config.listens.into_iter().collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_versions() {
        let argv = [
            "caddy",
            "run",
            "--environ",
            "--config",
            "/etc/caddy/Caddyfile",
            "--adapter=caddyfile",
            "--resume",
        ];
        let options = Options::parse(&argv.map(str::to_owned));
        assert_eq!(
            (options.command.as_str(), options.config.as_deref()),
            ("run", Some("/etc/caddy/Caddyfile"))
        );
        assert!(options.resume && options.adapter.as_deref() == Some("caddyfile"));
        assert_eq!(version("v2.11.7 h1:yj0Y4f=\n").as_deref(), Some("2.11.7"));
        assert_eq!(version("2.6.2\n").as_deref(), Some("2.6.2"));
        let argv = ["caddy", "reverse-proxy", "--from", ":8080", "--to", "app:80", "--to", ":81"];
        let effective = read(&Start { argv: argv.map(str::to_owned).to_vec(), ..Start::default() });
        let shown: Vec<_> = effective
            .endpoints
            .iter()
            .map(|fact| format!("{} {}", fact.route, fact.endpoint))
            .collect();
        assert_eq!(shown, [":8080/ app:80", ":8080/ localhost:81"]);
    }
}
