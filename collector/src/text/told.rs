//! A link's sentences without what stands beside them. In the API each sentence says where and when, because it may be
//! read alone; in a list of lines, each with its host and time in front, that is said once.

use why502_proto::v1;

use super::moment;

/// The text of `link` without its own host and its own time.
pub(crate) fn told(link: &v1::Link) -> String {
    let text = without_host(&link.text, &link.host);
    let Some(at) = moment::parse(&link.at) else { return text };
    let clock = moment::clock(at, at);
    let spellings = ["at {} UTC", "(at {} UTC)", "({} UTC)"];
    spellings.iter().fold(text, |text, spelling| {
        text.replace(&format!(" {}", spelling.replace("{}", &clock)), "")
    })
}

/// Leaves " on HOST" out, wherever HOST ends there.
fn without_host(text: &str, host: &str) -> String {
    if host.is_empty() {
        return text.to_owned();
    }
    let place = format!(" on {host}");
    let mut parts = text.split(&place).peekable();
    let mut out = String::new();
    while let Some(part) = parts.next() {
        out += part;
        // "app-1" is not meant by "app-10", nor "app" by "app.example".
        let goes_on = |next: &&str| {
            let mut chars = next.chars();
            match chars.next() {
                Some('.' | ':') => chars.next().is_some_and(char::is_alphanumeric),
                Some(c) => c.is_alphanumeric() || "-_/".contains(c),
                None => false,
            }
        };
        if parts.peek().is_some_and(goes_on) {
            out += &place;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(host: &str, at: &str, text: &str, expect: &str) {
        let (host, at, text) = (host.into(), at.into(), text.into());
        assert_eq!(told(&v1::Link { host, at, text, ..v1::Link::default() }), expect);
    }

    #[test]
    fn host_and_time_are_said_beside_it() {
        check(
            "app-1",
            "2026-11-24T11:59:59.590Z",
            "api.service on app-1 does not run: node (pid 7) was ended by SIGKILL at 11:59:59 UTC, 45 min after its start.",
            "api.service does not run: node (pid 7) was ended by SIGKILL, 45 min after its start.",
        );
        check(
            "gw",
            "2026-11-24T12:00:00.000Z",
            "Nobody listens on the socket at /run/a.sock on gw: its file was left behind (12:00:00 UTC).",
            "Nobody listens on the socket at /run/a.sock: its file was left behind.",
        );
    }

    #[test]
    fn another_host_and_another_time_are_kept() {
        let text = "app.service on app-10, on app.example, on app:80 and on app-1/x fails since 11:59:53 UTC.";
        check("app-1", "2026-11-24T11:59:53.000Z", text, text);
        check("app", "", text, text);
        check(
            "",
            "2026-11-24T11:59:53.000Z",
            "It ended at 11:59:52 UTC.",
            "It ended at 11:59:52 UTC.",
        );
    }
}
