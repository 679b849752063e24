//! One explanation as a terminal shows it: what happened, the way from the failed request to its cause, what to do,
//! and what could not be seen.

use jiff::Timestamp;
use why502_proto::v1;

use super::told::told;
use super::{Paint, clean, hang, moment, words, wrap};

/// The whole explanation, each line ended. `now` is where ages count from.
pub fn explanation(explanation: &v1::Explanation, now: Timestamp, paint: Paint) -> String {
    let mut out = headline(explanation, paint);
    if explanation.verdict.is_empty() {
        return out;
    }
    let symptom = explanation.symptom.clone().unwrap_or_default();
    out += &hang("", &summary(explanation, &symptom, now), paint);
    out += &state(explanation, now, paint);
    out.push('\n');
    out += &chain(explanation, &symptom, paint);
    out.push('\n');
    if explanation.verdict == "unknown" {
        out += &missing(explanation, now, paint);
    }
    if !explanation.check.is_empty() {
        // A command is not wrapped: it is there to be copied.
        let check = clean(&explanation.check);
        let place = match explanation.check_host.as_str() {
            "" => String::new(),
            host => paint.dim(&format!("   # on {}", clean(host))),
        };
        out += &format!("{}{check}{place}\n", paint.bold(&label("Check")));
    }
    out += &labelled("Fix", &explanation.fix, paint);
    if !explanation.confidence.is_empty() && explanation.verdict == "explained" {
        let rests_on = words::rests_on(&explanation.confidence);
        out += &labelled("How sure", &format!("{}: {rests_on}", explanation.confidence), paint);
    }
    for link in &explanation.ruled_out {
        out += &labelled("Not the cause", &format!("{}: {}", link.cause, link.text), paint);
    }
    for other in &explanation.also {
        let text = format!("{} ({}): {}", other.cause, other.confidence, other.text);
        out += &labelled("May also be", &text, paint);
    }
    if explanation.verdict != "unknown" {
        out += &missing(explanation, now, paint);
    }
    out
}

fn headline(explanation: &v1::Explanation, paint: Paint) -> String {
    let tag = match (explanation.verdict.as_str(), explanation.kind.as_str()) {
        ("", _) => String::new(),
        ("unknown", _) => "not known".to_owned(),
        (_, "predicted") => format!("{}, would fail", explanation.confidence),
        _ => explanation.confidence.clone(),
    };
    let text = match explanation.headline.as_str() {
        "" if tag.is_empty() => "Nothing is wrong.".to_owned(),
        "" => words::path(explanation),
        text => text.to_owned(),
    };
    let lines = wrap(&clean(&text), paint.width.saturating_sub(tag.chars().count() + 4));
    let mut out = String::new();
    for (at, line) in lines.iter().enumerate() {
        out += &paint.bold(line);
        if at + 1 == lines.len() && !tag.is_empty() {
            let tag = format!("[{}]", clean(&tag));
            let coloured = match explanation.confidence.as_str() {
                _ if explanation.verdict == "unknown" => paint.yellow(&tag),
                "proven" => paint.green(&tag),
                _ => paint.yellow(&tag),
            };
            out += &format!("  {coloured}");
        }
        out.push('\n');
    }
    out
}

/// `502 on gw-1 /api -> 10.0.0.7:8080, 142 requests since 12:03:04 UTC (connect, ECONNREFUSED)`
pub(crate) fn summary(
    explanation: &v1::Explanation,
    symptom: &v1::Symptom,
    now: Timestamp,
) -> String {
    let path = words::path(explanation);
    if explanation.kind == "predicted" {
        return format!("Nothing has failed yet. Requests would: {path}");
    }
    let status = match symptom.status {
        0 => "Failed requests".to_owned(),
        status => status.to_string(),
    };
    let count = words::counted(symptom.count, "request");
    let since = match moment::parse(&symptom.first) {
        Some(first) => format!(" since {} UTC", moment::clock(first, now)),
        None => String::new(),
    };
    let labels = [symptom.phase.as_str(), symptom.error.as_str()];
    let labels: Vec<&str> = labels.into_iter().filter(|label| !label.is_empty()).collect();
    let labels =
        if labels.is_empty() { String::new() } else { format!(" ({})", labels.join(", ")) };
    format!("{status} on {path}, {count}{since}{labels}")
}

fn state(explanation: &v1::Explanation, now: Timestamp, paint: Paint) -> String {
    if explanation.incident.is_empty() {
        return String::new();
    }
    let opened = moment::parse(&explanation.opened);
    let (word, end) = match moment::parse(&explanation.resolved) {
        Some(resolved) => ("Resolved", resolved),
        None => ("Open", now),
    };
    let lasted = opened.map(|opened| moment::span(end.duration_since(opened)));
    let lasted = match (word, lasted) {
        ("Open", Some(lasted)) => format!(" for {lasted}"),
        (_, Some(lasted)) => format!(" {} after {lasted}", moment::ago(end, now)),
        (_, None) => String::new(),
    };
    let text = format!("{word}{lasted}, incident {}", clean(&explanation.incident));
    if word == "Open" { format!("{text}\n") } else { format!("{}\n", paint.green(&text)) }
}

/// From the failed request to the root, a line each: when, on which host, what. Day and host stand only where they
/// change.
fn chain(explanation: &v1::Explanation, symptom: &v1::Symptom, paint: Paint) -> String {
    let hosts = explanation.chain.iter().map(|link| clean(&link.host).chars().count());
    let widest = hosts.chain([clean(&explanation.gateway).chars().count()]).max().unwrap_or(0);
    let mut lines = Lines { widest, paint, day: String::new(), host: String::new() };
    let felt = if explanation.kind == "predicted" {
        "a request would fail here".to_owned()
    } else {
        words::felt(symptom)
    };
    let mut out = lines.next(&symptom.first, &explanation.gateway, "", &felt);
    if !symptom.message.is_empty() {
        let message = hang(&lines.blank(), &format!("\"{}\"", symptom.message), paint);
        out += &paint.dim(message.trim_end());
        out.push('\n');
    }
    for link in &explanation.chain {
        let weaker = !link.confidence.is_empty() && link.confidence != "proven";
        let text = told(link);
        let text = if weaker { format!("{text} ({})", link.confidence) } else { text };
        out += &lines.next(&link.at, &link.host, "because", &text);
    }
    let indent = lines.blank();
    if explanation.verdict == "unknown" {
        out += &format!("{indent}{}\n", paint.yellow("root cause: not known"));
    } else if !explanation.root_cause.is_empty() {
        let root = format!("root cause: {}", clean(&explanation.root_cause));
        out += &format!("{indent}{}\n", paint.red(&root));
    }
    out
}

/// The columns of a chain, and what stands in the lines so far.
struct Lines {
    /// Longest name of a host.
    widest: usize,
    paint: Paint,
    day: String,
    host: String,
}

impl Lines {
    /// One line, and before it its day, if that is another one.
    fn next(&mut self, at: &str, host: &str, because: &str, text: &str) -> String {
        let mut out = String::new();
        let at = moment::parse(at);
        if let Some(day) = at.map(moment::day)
            && day != self.day
        {
            out += &format!("  {}\n", self.paint.dim(&format!("{day} (UTC)")));
            self.day = day;
        }
        let same = std::mem::replace(&mut self.host, host.to_owned()) == host;
        let lead = self.lead(
            &at.map(moment::clock_ms).unwrap_or_default(),
            if same { "" } else { host },
            because,
        );
        out + &hang(&lead, text, self.paint)
    }

    fn blank(&self) -> String {
        self.lead("", "", "")
    }

    fn lead(&self, at: &str, host: &str, because: &str) -> String {
        let (host, widest) = (clean(host), self.widest);
        format!("  {at:<12}  {host:<widest$}  {because:<7}  ")
    }
}

fn missing(explanation: &v1::Explanation, now: Timestamp, paint: Paint) -> String {
    let mut out = String::new();
    for missing in &explanation.missing {
        let since = match moment::parse(&missing.since) {
            Some(since) => format!(" since {} UTC", moment::clock(since, now)),
            None => String::new(),
        };
        let mut text = format!("{}{}{since}", missing.source, on(&missing.host));
        if !missing.text.is_empty() {
            text = format!("{text}: {}", missing.text);
        }
        if !missing.causes.is_empty() {
            text = format!("{text} (undecided: {})", missing.causes.join(", "));
        }
        out += &labelled("Could not see", &text, paint);
    }
    out
}

fn on(host: &str) -> String {
    if host.is_empty() { String::new() } else { format!(" on {}", clean(host)) }
}

/// Labels stand in a column of their own: the longest is `Not the cause:`.
fn label(name: &str) -> String {
    format!("{:<16}", format!("{name}:"))
}

/// A paragraph with its name in front, or nothing where there is nothing to say.
fn labelled(name: &str, text: &str, paint: Paint) -> String {
    if text.is_empty() {
        return String::new();
    }
    let lead = label(name);
    let block = hang(&lead, text, paint);
    block.strip_prefix(&lead).map(|rest| paint.bold(&lead) + rest).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::text::sample;

    #[track_caller]
    fn check(of: &v1::Explanation, width: usize, expect: Expect) {
        let now = sample::NOW.parse().unwrap();
        expect.assert_eq(&explanation(of, now, Paint { colours: false, width }));
    }

    #[test]
    fn proven() {
        check(
            &sample::oom_killed(),
            100,
            expect![[r#"
                api.service on app-1 was OOM-killed at its 512 MiB limit; nothing listens on 10.0.0.7:8080  [proven]
                502 on gw-1 /api -> 10.0.0.7:8080, 142 requests since 12:03:04 UTC (connect, ECONNREFUSED)
                Open for 4 min 3 s, incident 7

                  2026-11-24 (UTC)
                  12:03:04.120  gw-1            connection refused while connecting
                                                "connect() failed (111: Connection refused) while connecting to
                                                upstream"
                  12:03:03.981  app-1  because  nothing listens on 0.0.0.0:8080 since pid 4121 (api.service) closed
                                                it
                  12:03:03.980         because  main process 4121 of api.service was killed by signal 9 (SIGKILL)
                  12:03:03.978         because  the kernel killed pid 4121: api.service reached its limit of 512 MiB
                                                with 498 MiB of anonymous memory
                                                root cause: process.oom_killed.cgroup

                Check:          systemctl status api.service   # on app-1
                Fix:            raise MemoryMax= of api.service, or find what it holds: 498 MiB of anonymous memory
                                at its death
                How sure:       proven: every step rests on a fact that names the same process, listener or file
                Not the cause:  listener.bound_to_loopback: pid 4121 listened on the address until it died
                May also be:    memory.pressure (possible): memory was short on app-1 from 12:02:40
                Could not see:  journal on app-1 since 11:50:00 UTC: the last words of the service; add why502-agent
                                to group systemd-journal
            "#]],
        );
    }

    #[test]
    fn further_routes_are_counted() {
        let mut explanation = sample::oom_killed();
        explanation.routes.push("/shop".into());
        let text = summary(&explanation, &v1::Symptom::default(), sample::NOW.parse().unwrap());
        assert!(text.contains("gw-1 /api (and 1 other route) -> 10.0.0.7:8080"), "{text}");
    }

    #[test]
    fn narrow_terminal() {
        check(
            &sample::oom_killed(),
            60,
            expect![[r#"
                api.service on app-1 was OOM-killed at its 512 MiB
                limit; nothing listens on 10.0.0.7:8080  [proven]
                502 on gw-1 /api -> 10.0.0.7:8080, 142 requests since
                12:03:04 UTC (connect, ECONNREFUSED)
                Open for 4 min 3 s, incident 7

                  2026-11-24 (UTC)
                  12:03:04.120  gw-1            connection refused while
                                                connecting
                                                "connect() failed (111:
                                                Connection refused) while
                                                connecting to upstream"
                  12:03:03.981  app-1  because  nothing listens on
                                                0.0.0.0:8080 since pid 4121
                                                (api.service) closed it
                  12:03:03.980         because  main process 4121 of
                                                api.service was killed by
                                                signal 9 (SIGKILL)
                  12:03:03.978         because  the kernel killed pid 4121:
                                                api.service reached its
                                                limit of 512 MiB with 498
                                                MiB of anonymous memory
                                                root cause: process.oom_killed.cgroup

                Check:          systemctl status api.service   # on app-1
                Fix:            raise MemoryMax= of api.service, or find
                                what it holds: 498 MiB of anonymous memory
                                at its death
                How sure:       proven: every step rests on a fact that
                                names the same process, listener or file
                Not the cause:  listener.bound_to_loopback: pid 4121
                                listened on the address until it died
                May also be:    memory.pressure (possible): memory was short
                                on app-1 from 12:02:40
                Could not see:  journal on app-1 since 11:50:00 UTC: the
                                last words of the service; add why502-agent
                                to group systemd-journal
            "#]],
        );
    }

    #[test]
    fn not_known() {
        check(
            &sample::unknown(),
            100,
            expect![[r#"
                502 on gw-1 shop.example/cart: connections to 10.0.0.9:9000 are refused, and no agent
                is there to see why  [not known]
                502 on gw-1 shop.example/cart -> 10.0.0.9:9000, 142 requests since 12:03:04 UTC (connect,
                ECONNREFUSED)
                Open for 2 min 8 s, incident 8

                  2026-11-24 (UTC)
                  12:03:04.120  gw-1           connection refused while connecting
                                               "connect() failed (111: Connection refused) while connecting to
                                               upstream"
                                               root cause: not known

                Could not see:  agent on 10.0.0.9: whether anything listens there; start why502-agent on that host
                                (undecided: process.not_running, listener.bound_to_loopback)
                Check:          ss -ltnp 'sport = :9000'   # on 10.0.0.9
            "#]],
        );
    }

    #[test]
    fn predicted() {
        check(
            &sample::predicted(),
            100,
            expect![[r#"
                admin.service on app-2 listens on 127.0.0.1:8001 only; gw-1 asks 10.0.0.8:8001  [likely, would fail]
                Nothing has failed yet. Requests would: gw-1 /admin -> 10.0.0.8:8001
                Open for 9 min 7 s, incident 9

                                gw-1            a request would fail here
                  2026-11-24 (UTC)
                  11:58:00.000  app-2  because  pid 811 (admin.service) listens on 127.0.0.1:8001 only (likely)
                                                root cause: listener.bound_to_loopback

                Check:          ss -ltnp 'sport = :8001'   # on app-2
                Fix:            let admin.service listen on 0.0.0.0:8001 or 10.0.0.8:8001
                How sure:       likely: a step rests on counters or on configuration
            "#]],
        );
    }

    #[test]
    fn resolved() {
        let mut resolved = sample::oom_killed();
        resolved.state = "resolved".into();
        resolved.resolved = "2026-11-24T12:05:04.120Z".into();
        let now = sample::NOW.parse().unwrap();
        let text = explanation(&resolved, now, Paint::PLAIN);
        assert!(text.contains("Resolved 2 min 3 s ago after 1 min 59 s, incident 7"), "{text}");
    }

    #[test]
    fn nothing_wrong() {
        check(
            &v1::Explanation::default(),
            100,
            expect![[r#"
            Nothing is wrong.
        "#]],
        );
    }

    #[test]
    fn a_host_cannot_steer_the_terminal() {
        let mut evil = sample::oom_killed();
        evil.headline = "\x1b[2Jgone\x07".into();
        evil.check = "rm\x1b]0;x\x07".into();
        evil.gateway = "gw\x1b[31m".into();
        evil.chain[0].host = "\x1bapp".into();
        evil.incident = "\x1b1".into();
        let text = explanation(&evil, sample::NOW.parse().unwrap(), Paint::PLAIN);
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    }
}
