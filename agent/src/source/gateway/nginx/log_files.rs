//! Which files an instance logs to, which of its logs go to the journal, and which cannot be read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use jiff::tz::TimeZone;
use why502_gateway::effective::Target;
use why502_gateway::nginx::access_log::Format;
use why502_gateway::nginx::config::AccessLog;
use why502_gateway::nginx::lines::NginxLines;
use why502_gateway::nginx::{NAME, log_target};

use super::instance::Instance;
use crate::source::gateway::journal_lines::Reader;
use crate::source::gateway::logs::{Access, How, Wanted};

/// What makes failures visible.
const GRANT: &str = "write the error log to a file, at level error or lower";

/// Adds the access logs of an instance that are files and whose format is known.
pub fn access_logs(instance: &Instance, wanted: &mut BTreeMap<PathBuf, Wanted>) {
    let paths = &instance.paths;
    for (target, log) in &instance.effective.config.access_logs {
        let Some(format) = format(instance, log) else { continue };
        if let Target::File(path) = log_target(target, &paths.access_log, &paths.prefix)
            && path != Path::new("/dev/null")
        {
            let how = How::NginxAccess(Access { format, servers: log.servers.clone() });
            wanted.insert(path, Wanted { instance: instance.name.clone(), how });
        }
    }
}

fn format(instance: &Instance, log: &AccessLog) -> Option<Format> {
    match instance.effective.config.log_formats.get(&log.format) {
        Some(format) => Some(Format::new(format)),
        None if log.format == "combined" => Some(Format::combined()),
        None => None,
    }
}

/// Who reads the lines of an instance that systemd or journald takes, if there can be such.
pub fn journal_reader(instance: &Instance, zone: &TimeZone) -> Option<Reader> {
    let (config, paths) = (&instance.effective.config, &instance.paths);
    let in_journal = |target: &str, default: &str| {
        let target = log_target(target, default, &paths.prefix);
        matches!(target, Target::Stdio | Target::Syslog(_)).then_some(target)
    };
    let mut formats = Vec::new();
    let mut target = None;
    for (name, log) in &config.access_logs {
        if let Some(found) = in_journal(name, &paths.access_log) {
            formats.extend(format(instance, log));
            target = Some(found);
        }
    }
    let errors = config.error_logs.iter().rev();
    let mut errors = errors.filter_map(|log| in_journal(&log.target, &paths.error_log));
    target = errors.next().or(target);
    let unit = instance.master.as_ref().map_or("", |master| master.unit.as_str()).to_owned();
    let lines = NginxLines {
        instance: instance.name.clone(),
        unit: unit.clone(),
        config: std::sync::Arc::clone(config),
        formats,
        zone: Some(zone.clone()),
    };
    Some(Reader {
        instance: instance.name.clone(),
        unit,
        programs: &[NAME],
        target: target?,
        lines: Box::new(lines),
    })
}

/// Adds the error logs of an instance that are files, and why others cannot be read. `true`: there are others, also
/// those in the journal, which comes later than the access log: what the access log says is not judged by them.
pub fn error_logs(
    instance: &Instance,
    wanted: &mut BTreeMap<PathBuf, Wanted>,
    blind: &mut BTreeMap<String, (String, String)>,
) -> bool {
    let (mut dark, mut files) = (false, false);
    let logs = &instance.effective.config.error_logs;
    // Sorted so that the compiled-in one, which is named "", comes first: it matters only where there is no other.
    for log in logs.iter().rev() {
        let paths = &instance.paths;
        let target = log_target(&log.target, &paths.error_log, &paths.prefix);
        let silent = target == Target::File("/dev/null".into()) || !log.errors;
        match target {
            Target::File(path) if silent => {
                let reason = "failed requests are not logged here";
                blind.insert(
                    path.to_string_lossy().into_owned(),
                    (reason.to_owned(), GRANT.to_owned()),
                );
                dark = true;
            }
            Target::File(path) => {
                let instance = instance.name.clone();
                wanted.insert(path, Wanted { instance, how: How::NginxErrors });
                files = true;
            }
            _ if log.target.is_empty() && files => {}
            Target::Stdio | Target::Syslog(_) if !silent => dark = true,
            other => {
                let (reason, grant) = match other {
                    Target::Elsewhere { reason, grant } => (reason, grant),
                    _ => ("failed requests are not logged there".to_owned(), GRANT.to_owned()),
                };
                blind.insert(format!("error_log of {}", instance.name), (reason, grant));
                dark = true;
            }
        }
    }
    dark
}
