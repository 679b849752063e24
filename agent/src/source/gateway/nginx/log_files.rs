//! Which files an instance logs to, and which of its logs are no files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use why502_gateway::nginx::access_log::Format;
use why502_gateway::nginx::log_path;

use super::instance::Instance;
use crate::source::gateway::logs::{Access, How, Wanted};

/// What makes failures visible.
const GRANT: &str = "write the error log to a file, at level error or lower";

/// Adds the access logs of an instance that are files and whose format is known.
pub fn access_logs(instance: &Instance, wanted: &mut BTreeMap<PathBuf, Wanted>) {
    let config = &instance.effective.config;
    for (target, log) in &config.access_logs {
        let paths = &instance.paths;
        let path = log_path(target, &paths.access_log, &paths.prefix);
        let format = match config.log_formats.get(&log.format) {
            Some(format) => Format::new(format),
            None if log.format == "combined" => Format::combined(),
            None => continue,
        };
        if let Ok(path) = path.map_err(drop)
            && path != Path::new("/dev/null")
        {
            let how = How::NginxAccess(Access { format, servers: log.servers.clone() });
            wanted.insert(path, Wanted { instance: instance.name.clone(), how });
        }
    }
}

/// Adds the error logs of an instance that can be followed, and why others cannot. `true`: there are others.
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
        match log_path(&log.target, &paths.error_log, &paths.prefix) {
            Ok(path) if path == Path::new("/dev/null") || !log.errors => {
                let reason = "failed requests are not logged here";
                blind.insert(
                    path.to_string_lossy().into_owned(),
                    (reason.to_owned(), GRANT.to_owned()),
                );
                dark = true;
            }
            Ok(path) => {
                let instance = instance.name.clone();
                wanted.insert(path, Wanted { instance, how: How::NginxErrors });
                files = true;
            }
            Err(_) if log.target.is_empty() && files => {}
            Err(place) => {
                let reason = format!("the error log goes to {place}");
                blind.insert(format!("error_log of {}", instance.name), (reason, GRANT.to_owned()));
                dark = true;
            }
        }
    }
    dark
}
