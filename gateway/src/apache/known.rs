//! Which words of a configuration matter here.

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

/// The name of a directive that matters: one of [`DIRECTIVES`], or one by which httpd may answer 502, 503 or 504 by itself:
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
