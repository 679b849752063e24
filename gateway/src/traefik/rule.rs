//! Rules of routers: which hosts and paths they take (doc.traefik.io, "Rules & Priority").
//!
//! Only what names a route is read: the first host and the first path that are not negated. Which router took a request
//! is for the log to say.

/// Parts of a rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Rule {
    /// Of Host, HostSNI or HostRegexp: "shop.example"; `*` is none.
    pub(super) host: String,
    /// As routes are written: "/api" for a prefix, "=/api" for a path, "~^/a" for a regex.
    pub(super) location: String,
}

/// Reads a rule, as far as it names a route.
pub(super) fn parse(text: &str) -> Rule {
    let mut rule = Rule::default();
    let mut rest = text;
    let mut before = ' ';
    while let Some(open) = rest.find('(') {
        let (head, inner) = rest.split_at(open);
        let name_at = head.trim_end_matches(|c: char| c.is_ascii_alphanumeric()).len();
        let name = &head[name_at..];
        before = head[..name_at].trim_end().chars().next_back().unwrap_or(before);
        let inner = &inner[1..];
        let Some((value, length)) = argument(inner) else {
            // A group, or something without an argument.
            rest = inner;
            before = ' ';
            continue;
        };
        rest = &inner[length..];
        if before != '!' {
            take(&mut rule, name, value);
        }
        before = ' ';
    }
    rule
}

fn take(rule: &mut Rule, name: &str, value: &str) {
    let location = |sign: &str| format!("{sign}{value}");
    let (slot, value) = match name.to_ascii_lowercase().as_str() {
        "host" | "hostsni" | "hostheader" => (&mut rule.host, value.to_ascii_lowercase()),
        "hostregexp" | "hostsniregexp" => (&mut rule.host, value.to_owned()),
        "pathprefix" => (&mut rule.location, location("")),
        "path" => (&mut rule.location, location("=")),
        "pathregexp" => (&mut rule.location, location("~")),
        _ => return,
    };
    if slot.is_empty() && value != "*" {
        *slot = value;
    }
}

/// The first quoted argument, and the length up to behind it.
fn argument(text: &str) -> Option<(&str, usize)> {
    let blank = text.len() - text.trim_start().len();
    let quote = text[blank..].chars().next().filter(|quote| "`\"'".contains(*quote))?;
    let begin = blank + 1;
    let end = begin + text[begin..].find(quote)?;
    Some((&text[begin..end], end + 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(text: &str, host: &str, location: &str) {
        let rule = parse(text);
        assert_eq!((rule.host.as_str(), rule.location.as_str()), (host, location), "{text}");
    }

    #[test]
    fn hosts_and_paths() {
        check("Host(`shop.example`) && PathPrefix(`/api`)", "shop.example", "/api");
        check("(Host(`A.example`) || Host(`b.example`)) && Path( \"/x\" )", "a.example", "=/x");
        check("!Host(`a.example`) && PathRegexp(`^/(a|b)`)", "", "~^/(a|b)");
        check("HostSNI(`*`)", "", "");
        check("HostRegexp(`^.+\\.example$`) && Method(`GET`)", "^.+\\.example$", "");
        check("Headers(`X`, `y`) && !(PathPrefix(`/no`))", "", "/no");
        check("Host(", "", "");
    }

    proptest! {
        #[test]
        fn any_rule_is_read(text in "([A-Za-z]{0,9}[(`\"'&|! )é]){0,20}") {
            parse(&text);
        }
    }
}
