//! The resources of an instance: listeners, clusters, route tables and endpoint lists, from its bootstrap, from files
//! that it watches (`path_config_source`), or from what its admin interface shows (`/config_dump?include_eds`).
//!
//! Pages: envoy.config.bootstrap.v3.Bootstrap, envoy.config.core.v3.ConfigSource and envoy.admin.v3.ConfigDump of
//! envoyproxy.io/docs.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::document::{Document, Node, Syntax, Value, same_name};
use crate::files::Files;
use crate::place::{Place, Problem};

/// A part of a document.
#[derive(Clone, Copy, Debug)]
pub(super) struct At<'a> {
    pub(super) document: &'a Document,
    pub(super) node: &'a Node,
}

impl<'a> At<'a> {
    /// Where `node`, a part of the same document, stands.
    pub(super) fn place(self, node: &Node) -> Place {
        self.document.place(node)
    }

    pub(super) fn problem(self, node: &Node, text: impl Into<String>) -> Problem {
        Problem { place: self.place(node), text: text.into() }
    }

    pub(super) fn with(self, node: &'a Node) -> Self {
        Self { node, ..self }
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Resources<'a> {
    pub(super) listeners: Vec<At<'a>>,
    pub(super) clusters: Vec<At<'a>>,
    /// Route tables by name.
    pub(super) tables: BTreeMap<&'a str, At<'a>>,
    /// Endpoints of clusters of the type EDS, by name.
    pub(super) assignments: BTreeMap<&'a str, At<'a>>,
}

impl<'a> Resources<'a> {
    /// Those of the documents of a bootstrap and of the files that it names.
    pub(super) fn of_files(documents: &'a [Document]) -> Self {
        let mut all = Self::default();
        for document in documents {
            let at = At { document, node: &document.root };
            let root = &document.root;
            all.listeners
                .extend(root.list("static_resources.listeners").iter().map(|n| at.with(n)));
            all.clusters.extend(root.list("static_resources.clusters").iter().map(|n| at.with(n)));
            root.list("resources").iter().for_each(|node| all.add(at.with(node)));
        }
        all
    }

    /// Those of an answer to `/config_dump?include_eds`.
    pub(super) fn of_dump(document: &'a Document) -> Self {
        let mut all = Self::default();
        let at = At { document, node: &document.root };
        for config in document.root.list("configs") {
            for (_, entries) in config.entries() {
                for entry in entries.items() {
                    let resource = ["cluster", "route_config", "endpoint_config", "listener"];
                    let here = resource.iter().find_map(|name| entry.get(name));
                    let here = here.or_else(|| entry.at("active_state.listener"));
                    if let Some(node) = here {
                        all.add(at.with(node));
                    }
                }
            }
        }
        all
    }

    /// Takes a resource by its type.
    fn add(&mut self, at: At<'a>) {
        let at = at.node.get("resource").map_or(at, |inner| at.with(inner));
        match kind(at.node) {
            "Listener" => self.listeners.push(at),
            "Cluster" => self.clusters.push(at),
            "RouteConfiguration" => drop(self.tables.insert(at.node.text("name"), at)),
            "ClusterLoadAssignment" => {
                self.assignments.insert(at.node.text("cluster_name"), at);
            }
            _ => {}
        }
    }
}

/// Last part of `@type`: "HttpConnectionManager".
pub(super) fn kind(node: &Node) -> &str {
    let named = node.entries().iter().find(|(name, _)| &**name == "@type");
    let name = named.and_then(|(_, node)| node.scalar()).unwrap_or("");
    name.rsplit(['.', '/']).next().unwrap_or("")
}

/// Reads a bootstrap and every file that it names as the source of resources.
pub(super) fn load(
    files: &mut Files,
    directory: &Path,
    bootstrap: Vec<Document>,
    problems: &mut BTreeSet<Problem>,
) -> Vec<Document> {
    let mut documents = bootstrap;
    let mut known = BTreeSet::new();
    let mut next = 0;
    while next < documents.len() {
        let mut sources = Vec::new();
        sources_in(&documents[next].root, "", &mut sources);
        for (path, line) in sources {
            let path = directory.join(path);
            if !known.insert(path.clone()) {
                continue;
            }
            match read(files, &path) {
                Ok(document) => documents.push(document),
                Err(error) => {
                    let place = Place { file: documents[next].file.clone(), line };
                    let text = format!("{} cannot be read: {error}", path.display());
                    problems.insert(Problem { place, text });
                }
            }
        }
        next += 1;
    }
    for document in &mut documents {
        problems.extend(std::mem::take(&mut document.problems));
    }
    documents
}

/// Reads one file.
pub(super) fn read(files: &mut Files, path: &Path) -> std::io::Result<Document> {
    let end = path.extension().and_then(|end| end.to_str()).unwrap_or("");
    if end == "pb" || end == "pb_text" {
        return Err(std::io::Error::other("only YAML and JSON are read"));
    }
    let bytes = files.read(path)?;
    let name = path.to_string_lossy();
    Ok(Document::parse(&String::from_utf8_lossy(&bytes), &name, Syntax::of(&name)))
}

/// Paths of `path_config_source`, or of the older `path` right below a configuration source.
fn sources_in(node: &Node, name: &str, found: &mut Vec<(PathBuf, u32)>) {
    let sources = ["path_config_source", "lds_config", "cds_config", "eds_config", "config_source"];
    let path = node.text("path");
    if !path.is_empty() && sources.iter().any(|source| same_name(name, source)) {
        found.push((PathBuf::from(path), node.line));
    }
    match &node.value {
        Value::List(items) => items.iter().for_each(|item| sources_in(item, name, found)),
        Value::Map(entries) => {
            entries.iter().for_each(|(name, node)| sources_in(node, name, found));
        }
        Value::Null | Value::Scalar(_) => {}
    }
}
