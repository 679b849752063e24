//! Where Envoy logs, and in which format (envoy.config.accesslog.v3.AccessLog).

use std::collections::BTreeMap;
use std::path::Path;

use super::format::Format;
use super::lines::Access;
use super::resources::{At, kind};
use crate::document::{Node, Value, same_name};
use crate::effective::Target;

/// Paths of event logs of outlier detection and health checks in a bootstrap.
pub(super) fn events(root: &Node) -> Vec<String> {
    let mut found = Vec::new();
    event_paths(root, &mut found);
    found
}

fn event_paths(node: &Node, found: &mut Vec<String>) {
    for (name, value) in node.entries() {
        if same_name(name, "event_log_path") {
            found.extend(value.scalar().map(str::to_owned));
        }
        event_paths(value, found);
    }
    if let Value::List(items) = &node.value {
        items.iter().for_each(|item| event_paths(item, found));
    }
}

/// Where a path leads.
pub(super) fn target(path: &str, directory: &Path) -> Target {
    match path {
        "/dev/stdout" | "/dev/stderr" | "/proc/self/fd/1" | "/proc/self/fd/2" | "/dev/fd/1"
        | "/dev/fd/2" => Target::Stdio,
        _ => Target::File(directory.join(path).components().collect()),
    }
}

/// Adds one access log.
pub(super) fn access(log: At<'_>, directory: &Path, targets: &mut BTreeMap<Target, Vec<Access>>) {
    let typed = log.node.get("typed_config").or_else(|| log.node.get("config"));
    let Some(typed) = typed else { return };
    let elsewhere = |reason: &str| Target::Elsewhere {
        reason: reason.to_owned(),
        grant: "add envoy.access_loggers.file beside it".to_owned(),
    };
    let target = match kind(typed) {
        "FileAccessLog" => target(typed.text("path"), directory),
        "StdoutAccessLog" | "StderrAccessLog" => Target::Stdio,
        "HttpGrpcAccessLogConfig" | "TcpGrpcAccessLogConfig" => {
            elsewhere("an access log goes by gRPC to a collector of its own")
        }
        "OpenTelemetryAccessLogConfig" => elsewhere("an access log goes to OpenTelemetry"),
        "FluentdAccessLogConfig" => elsewhere("an access log goes to Fluentd"),
        _ => return,
    };
    let format = format(typed);
    let access = Access { format, all: log.node.get("filter").is_none() };
    let formats = targets.entry(target).or_default();
    if access.format.tells() && !formats.contains(&access) {
        formats.push(access);
    }
}

fn format(typed: &Node) -> Format {
    let text = |path: &str| typed.at(path).and_then(Node::scalar);
    let json = typed.at("log_format.json_format").or_else(|| typed.get("json_format"));
    if let Some(json) = json.or_else(|| typed.get("typed_json_format")) {
        return Format::json(json);
    }
    let written = text("log_format.text_format_source.inline_string")
        .or_else(|| text("log_format.text_format"))
        .or_else(|| text("format"));
    written.map_or_else(Format::default_text, Format::text)
}
