//! Envoy: what its bootstrap, its files and its admin interface declare, and what its logs say.
//!
//! Without an admin interface only files are known: what comes from a control plane by gRPC is not seen. Access logs
//! reach a file when 64 KiB are full or `--file-flush-interval-msec` (10 s) is over.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use why502_proto::v1::{self, Protocol};

use self::cluster::Cluster;
use self::lines::{Access, EnvoyLines};
use self::model::Model;
use self::resources::Resources;
use self::route::Route;
use crate::document::{Document, Node, Syntax};
use crate::effective::{ASK_EVERY, Admin, Effective, Log, Speech, Start, Target};
use crate::files::Files;
use crate::kind::Kind;
use crate::lines::Lines;
use crate::place::{Place, Problem};

mod cluster;
mod format;
mod lines;
mod logs;
mod meaning;
mod model;
mod resources;
mod route;

/// The program's name in facts.
pub const NAME: &str = "envoy";

const CONFIG: &str = "/etc/envoy/envoy.yaml";

/// What it brings.
pub const KIND: Kind = Kind {
    name: NAME,
    programs: &["envoy"],
    version_args: &["--version"],
    version,
    usual: &[CONFIG],
    // It watches files of resources, but only that they are moved into place; its log and the admin interface tell.
    follows_files: false,
    read,
    answered,
    knows: lines::knows,
    lines: usual_lines,
};

fn usual_lines() -> Box<dyn Lines> {
    Box::new(EnvoyLines::usual())
}

/// Of "envoy  version: 9e55.../1.40.0/Clean/RELEASE/BoringSSL".
fn version(text: &str) -> Option<String> {
    let (_, rest) = text.split_once("version: ")?;
    rest.split('/').nth(1).map(str::to_owned)
}

/// Words of its command line that matter here.
#[derive(Debug, Default)]
struct Options {
    config: Option<String>,
    yaml: Option<String>,
    log: Option<String>,
}

fn options(argv: &[String]) -> Options {
    let mut options = Options::default();
    let mut words = argv.iter().skip(1);
    while let Some(word) = words.next() {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let slot = match name {
            "-c" | "--config-path" => &mut options.config,
            "--config-yaml" => &mut options.yaml,
            "--log-path" => &mut options.log,
            _ => continue,
        };
        let value = if word.contains('=') { Some(value.to_owned()) } else { words.next().cloned() };
        *slot = value.filter(|value| !value.is_empty());
    }
    if options.config.is_none() && options.yaml.is_none() {
        options.config = Some(CONFIG.to_owned());
    }
    options
}

fn read(start: &Start) -> Effective {
    let options = options(&start.argv);
    let mut effective = Effective::default();
    let mut files = Files::new(&start.root);
    let mut bootstrap = Vec::new();
    effective.instance = "--config-yaml".to_owned();
    if let Some(path) = &options.config {
        let path: PathBuf = start.directory.join(path).components().collect();
        effective.instance = path.to_string_lossy().into_owned();
        match resources::read(&mut files, &path) {
            Ok(document) => bootstrap.push(document),
            Err(error) => {
                let place = Place { file: effective.instance.as_str().into(), line: 1 };
                let text = format!("cannot be read: {error}");
                effective.problems.insert(Problem { place, text });
            }
        }
    }
    if let Some(yaml) = &options.yaml {
        bootstrap.push(Document::parse(yaml, "--config-yaml", Syntax::Yaml));
    }
    effective.readable = !bootstrap.is_empty();
    effective.admin = bootstrap.iter().find_map(|document| admin(&document.root));
    let documents =
        resources::load(&mut files, &start.directory, bootstrap, &mut effective.problems);
    let kept = Kept::new(&documents, &options, &start.directory);
    let meaning = Meaning::of(&Resources::of_files(&documents), &kept);
    drop(documents);
    meaning.take(&mut effective);
    effective.kept = Some(Arc::new(kept));
    effective.watched = files.watched;
    effective
}

/// Its admin interface: only GETs of it are asked.
fn admin(root: &Node) -> Option<Admin> {
    let (address, _) = cluster::endpoint(root.at("admin.address")?)?;
    let questions = ["/config_dump?include_eds", "/clusters?format=json"];
    Some(Admin {
        speech: Speech::Http,
        address,
        questions: questions.into_iter().map(str::to_owned).collect(),
        every: ASK_EVERY,
    })
}

/// Where it logs whatever its listeners say; kept for the answers of the admin interface.
#[derive(Debug)]
struct Kept {
    directory: PathBuf,
    /// Its own log, and logs of events.
    targets: Vec<Target>,
}

impl Kept {
    fn new(documents: &[Document], options: &Options, directory: &Path) -> Self {
        let target = |path: &str| logs::target(path, directory);
        let mut targets = vec![options.log.as_deref().map_or(Target::Stdio, target)];
        let events = documents.iter().flat_map(|document| logs::events(&document.root));
        targets.extend(events.map(|path| target(&path)));
        Self { directory: directory.to_owned(), targets }
    }
}

/// What resources mean, without them: they may be large.
struct Meaning {
    clusters: BTreeMap<String, Cluster>,
    routes: Vec<Route>,
    listens: BTreeSet<String>,
    targets: BTreeMap<Target, Vec<Access>>,
    silent: Vec<String>,
    problems: BTreeSet<Problem>,
}

impl Meaning {
    fn of(resources: &Resources<'_>, kept: &Kept) -> Self {
        let mut listeners = route::listeners(resources);
        let clusters = cluster::clusters(resources, &mut listeners.problems);
        let mut targets: BTreeMap<Target, Vec<Access>> = BTreeMap::new();
        for log in &listeners.logs {
            logs::access(*log, &kept.directory, &mut targets);
        }
        for target in &kept.targets {
            targets.entry(target.clone()).or_default();
        }
        Self {
            clusters,
            routes: listeners.routes,
            listens: listeners.listens,
            targets,
            silent: listeners.silent,
            problems: listeners.problems,
        }
    }

    /// Makes it what is in effect.
    fn take(mut self, effective: &mut Effective) {
        effective.problems.append(&mut self.problems);
        let model = Arc::new(Model::new(&effective.instance, self.routes, self.clusters));
        effective.endpoints = model.declared();
        effective.listens = self.listens;
        let reader = |(target, formats)| {
            let instance = effective.instance.clone();
            let lines = EnvoyLines { formats, model: Arc::clone(&model), instance };
            Log { target, lines: Box::new(lines) as Box<dyn Lines> }
        };
        effective.logs = self.targets.into_iter().map(reader).collect();
        for listener in self.silent {
            let target = Target::Elsewhere {
                reason: format!("the listener {listener} has no access log"),
                grant: "add envoy.access_loggers.file to access_log of its connection manager"
                    .to_owned(),
            };
            effective.logs.push(Log { target, lines: usual_lines() });
        }
    }
}

/// Takes the configuration that it runs with; places in files are kept where they declare the same endpoint.
fn answered(effective: &mut Effective, answers: &[String]) {
    let kept = effective.kept.clone().and_then(|kept| kept.downcast::<Kept>().ok());
    let (Some(kept), [dump, clusters]) = (kept, answers) else { return };
    let dump = Document::parse(dump, "/config_dump", Syntax::Json);
    if dump.root.list("configs").is_empty() || !dump.problems.is_empty() {
        return;
    }
    let mut places = BTreeMap::new();
    for fact in std::mem::take(&mut effective.endpoints) {
        let place = (fact.file.clone(), fact.line);
        places.entry((fact.route, fact.endpoint.clone())).or_insert_with(|| place.clone());
        places.entry((String::new(), fact.endpoint)).or_insert(place);
    }
    let problems = std::mem::take(&mut effective.problems);
    Meaning::of(&Resources::of_dump(&dump), &kept).take(effective);
    // Those of the dump have no place that anybody could look at.
    effective.problems = problems;
    for fact in &mut effective.endpoints {
        let own = (fact.route.clone(), fact.endpoint.clone());
        let place =
            places.get(&own).or_else(|| places.get(&(String::new(), fact.endpoint.clone())));
        (fact.file, fact.line) = place.cloned().unwrap_or(("/config_dump".to_owned(), 0));
    }
    let clusters = Document::parse(clusters, "/clusters", Syntax::Json);
    statuses(effective, &clusters.root);
}

/// Takes addresses that names have for it, and what is not asked now.
fn statuses(effective: &mut Effective, clusters: &Node) {
    let mut resolved: BTreeMap<(&str, String), BTreeSet<String>> = BTreeMap::new();
    let mut out: BTreeSet<(&str, String)> = BTreeSet::new();
    for cluster in clusters.list("cluster_statuses") {
        let name = cluster.text("name");
        for host in cluster.list("host_statuses") {
            let Some((address, _)) = host.get("address").and_then(cluster::endpoint) else {
                continue;
            };
            let health = host.get("health_status").map_or(&[][..], Node::entries).iter();
            if health
                .clone()
                .any(|(flag, is)| flag.starts_with("failed_") && is.scalar() == Some("true"))
            {
                out.insert((name, address.clone()));
            }
            let named = host.text("hostname");
            let port = address.rsplit_once(':').map_or("", |(_, port)| port);
            if !named.is_empty() {
                let named =
                    if named.contains(':') { named.to_owned() } else { format!("{named}:{port}") };
                resolved.entry((name, named)).or_default().insert(address);
            }
        }
    }
    for fact in &mut effective.endpoints {
        if fact.addresses.is_empty()
            && let Some(found) = resolved.get(&(fact.upstream.as_str(), fact.endpoint.clone()))
        {
            fact.addresses = found.iter().cloned().collect();
        }
    }
    let instance = &effective.instance;
    let disabled = out.into_iter().map(|(upstream, endpoint)| v1::EndpointDisabled {
        instance: instance.clone(),
        endpoint,
        upstream: upstream.to_owned(),
        ..v1::EndpointDisabled::default()
    });
    effective.disabled = disabled.collect();
}

/// Whether connections of this protocol begin with TLS.
fn speaks_tls(protocol: Protocol) -> bool {
    matches!(protocol, Protocol::Https | Protocol::Grpcs)
}
