//! Which words of a configuration matter here, and whether a condition holds.

use super::syntax::words;

/// Modules that are compiled in everywhere, and those that Debian and Red Hat compile in.
pub const BUILT_IN: [&str; 7] =
    ["core", "so", "http_core", "log_config", "logio", "version", "unixd"];

/// Directives that say something about where requests go, or what is logged.
pub const DIRECTIVES: [&str; 18] = [
    "balancermember",
    "customlog",
    "errorlog",
    "globallog",
    "listen",
    "logformat",
    "proxypass",
    "proxypassmatch",
    "proxyset",
    "proxytimeout",
    "rewriteengine",
    "rewriterule",
    "serveralias",
    "servername",
    "setenv",
    "sethandler",
    "timeout",
    "transferlog",
];

/// Sections that are part of the tree.
pub const SECTIONS: [&str; 9] = [
    "virtualhost",
    "location",
    "locationmatch",
    "directory",
    "directorymatch",
    "files",
    "filesmatch",
    "proxy",
    "proxymatch",
];

/// The name of a directive that matters: one of [`DIRECTIVES`], or one by which httpd may answer
/// 502, 503 or 504 by itself:
/// "redirect" for all of mod_alias, "sec" for all of mod_security.
pub fn known(name: &str, rest: &str) -> Option<&'static str> {
    if name.starts_with("redirect") {
        return rest.contains('5').then_some("redirect");
    }
    if name.starts_with("sec") {
        return rest.contains("status:50").then_some("sec");
    }
    DIRECTIVES.iter().find(|known| **known == name).copied()
}

/// "proxy_http" of "proxy_http_module", "mod_proxy_http.c" and "modules/mod_proxy_http.so".
pub fn module_name(text: &str) -> String {
    let name = text.rsplit('/').next().unwrap_or(text);
    let name = name.strip_prefix("mod_").unwrap_or(name);
    let name = name.trim_end_matches(".c").trim_end_matches(".so").trim_end_matches("_module");
    // The event MPM is event.c and mpm_event_module.
    name.strip_prefix("mpm_").unwrap_or(name).to_owned()
}

/// `<IfVersion >= 2.4.26>`; a version that is not known is the newest.
pub fn is_version(running: &str, rest: &str) -> bool {
    let (not, rest) = rest.strip_prefix('!').map_or((false, rest), |rest| (true, rest));
    let words = words(rest);
    let (operator, than) = match words.as_slice() {
        [operator, than, ..] => (operator.as_str(), than),
        [than] => ("=", than),
        [] => return true,
    };
    let number = |text: &str| -> Vec<u32> {
        text.split('.').map(|part| part.parse().unwrap_or(0)).collect()
    };
    let running = if running.is_empty() { "2.4.999" } else { running };
    let mut running = number(running);
    let than = number(than);
    running.truncate(than.len());
    let holds = match operator {
        ">" => running > than,
        ">=" => running >= than,
        "<" => running < than,
        "<=" => running <= than,
        _ => running == than,
    };
    holds != not
}
