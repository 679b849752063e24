//! What `${VAR}` stands for: Debian's `apachectl` starts httpd with the variables of
//! `/etc/apache2/envvars`, a file for
//! a shell. Where httpd's own environment cannot be read, the assignments of that file are what is
//! known.

use std::collections::BTreeMap;

/// Reads `export NAME=value` and `NAME=value`. Conditions are not evaluated: of two assignments
/// the last one counts,
/// which in Debian's file is the one of the usual instance.
pub fn assignments(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let line = line.trim();
        let line = line.strip_prefix("export ").unwrap_or(line).trim_start();
        let line = line.strip_prefix(": ").unwrap_or(line);
        let pair = match line.strip_prefix("${").and_then(|line| line.split_once(":=")) {
            Some((name, value)) => Some((name, value.trim_end_matches('}'))),
            None => line.split_once('='),
        };
        let Some((name, value)) = pair else { continue };
        if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            let value = plain(value, &found);
            found.insert(name.to_owned(), value);
        }
    }
    found
}

/// A value without quotes and comments, with the variables that are known by then.
fn plain(value: &str, known: &BTreeMap<String, String>) -> String {
    let value = match value.chars().next() {
        Some(quote @ ('"' | '\'')) => value[1..].split(quote).next().unwrap_or_default(),
        _ => value.split([' ', '\t', ';', '#']).next().unwrap_or_default(),
    };
    let mut text = String::new();
    let mut rest = value;
    while let Some(at) = rest.find('$') {
        text.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let braced = rest.starts_with('{');
        let name = rest.trim_start_matches('{');
        let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
        text.push_str(known.get(&name[..end]).map_or("", String::as_str));
        rest = &name[end..];
        if braced {
            rest = rest.split_once('}').map_or("", |(_, rest)| rest);
        }
    }
    text + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian() {
        let text = "# comment\nunset HOME\nif [ \"${APACHE_CONFDIR##/etc/apache2-}\" != \"${APACHE_CONFDIR}\" ] ; then\n\
                    \tSUFFIX=\"-${APACHE_CONFDIR##/etc/apache2-}\"\nelse\n\tSUFFIX=\nfi\n\
                    export APACHE_RUN_USER=www-data\nexport APACHE_LOG_DIR=/var/log/apache2$SUFFIX\n: ${APACHE_ULIMIT:=8192}\n\
                    export LANG\nexport X='a b' # why\n";
        let found = assignments(text);
        assert_eq!(found["APACHE_LOG_DIR"], "/var/log/apache2");
        assert_eq!(found["APACHE_RUN_USER"], "www-data");
        assert_eq!((found["APACHE_ULIMIT"].as_str(), found["X"].as_str()), ("8192", "a b"));
        assert!(!found.contains_key("LANG"));
    }
}
