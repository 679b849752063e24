//! What the lines of an error log tell. httpd says one failure in two or three lines of one
//! thread: they are told as one.

use std::collections::VecDeque;
use std::sync::Arc;

use why502_proto::v1::{self, AppEvent, Fault, Phase};

use super::attribute::{Asked, Attributed, Class, attribute};
use super::error_log::{ErrorLine, parse};
use super::logs::Log;
use super::message::{Rule, fault, returned, rule};
use super::parts::{address, class, event, in_parentheses, peer_at_end, scheme};
use crate::lines::{Lines, Told, What};
use crate::redact;

/// Threads whose failures have begun, or of which a companion may come. httpd writes the companion
/// within microseconds.
const THREADS_MAX: usize = 256;
/// Peers whose failing health checks were told.
const CHECKED_MAX: usize = 1024;

/// Reads an error log.
#[derive(Debug)]
pub struct ErrorLines {
    log: Arc<Log>,
    open: VecDeque<Open>,
    /// Peers whose health check failed, and in which minute that was told last.
    checked: VecDeque<(String, String)>,
    restarting: bool,
    /// A refused configuration, of which the next line says why.
    refused: Option<String>,
}

/// A failure that a thread has begun to tell.
#[derive(Debug)]
struct Open {
    thread: String,
    failed: v1::RequestFailed,
    asked: Asked,
    told: bool,
}

impl ErrorLines {
    /// Nothing is read yet.
    pub fn new(log: Arc<Log>) -> Self {
        Self {
            log,
            open: VecDeque::new(),
            checked: VecDeque::new(),
            restarting: false,
            refused: None,
        }
    }

    fn line(&mut self, line: &ErrorLine<'_>, told: &mut Vec<What>) {
        let Some(rule) = rule_of(line) else { return };
        match rule {
            Rule::Attempt => self.attempt(line, told),
            Rule::AfterAttempt => self.after_attempt(line, told),
            Rule::Skipped => {
                let asked = Asked::new(in_parentheses(line.message), class(line.message));
                let failed = failure(line, Phase::Select, Some(Fault::NoLiveUpstreams), Some(503));
                self.begin(line, failed, asked, told);
                self.tell(line.thread, None, told);
            }
            Rule::Disabled => self.disabled(line, Phase::Unspecified, Fault::Unspecified, told),
            Rule::NoneLeft => {
                let name = line.message.strip_prefix("balancer://").unwrap_or("");
                let asked = Asked {
                    balancer: name.split(':').next().unwrap_or_default().to_ascii_lowercase(),
                    ..Asked::default()
                };
                let failed = failure(line, Phase::Select, Some(Fault::NoLiveUpstreams), Some(503));
                let attributed = attribute(&self.log, &asked);
                told.push(What::Failed(finished(&self.log, failed, attributed)));
            }
            Rule::Begin(phase, fault) => {
                let asked = Asked::new(peer_at_end(line.message), Class::of_module(line.module));
                self.begin(line, failure(line, phase, fault, None), asked, told);
            }
            Rule::Certificate => {
                let failed = failure(line, Phase::Tls, Some(Fault::TlsCertificate), Some(500));
                self.begin(line, failed, Asked::default(), told);
            }
            Rule::End(phase) => self.end(line, phase, told),
            Rule::Returned => self.returned(line, told),
            Rule::Dispatch => self.dispatch(line, told),
            Rule::Context => {}
            Rule::Crashed | Rule::Exhausted(_) => told.push(What::Event(event(line, rule))),
            Rule::Restarting => self.restarting = true,
            Rule::Running => {
                if std::mem::take(&mut self.restarting) {
                    told.push(What::Reloaded(self.reloaded(String::new())));
                }
            }
            Rule::Refused => self.refused = Some(line.said()),
        }
    }

    fn reloaded(&self, error: String) -> v1::GatewayReloaded {
        let instance = self.log.instance.clone();
        v1::GatewayReloaded { gateway: super::NAME.to_owned(), instance, error }
    }

    /// "http: attempt to connect to 10.0.0.7:8080 (app:8080) failed"
    fn attempt(&mut self, line: &ErrorLine<'_>, told: &mut Vec<What>) {
        let fault = fault(line.error).unwrap_or(Fault::OtherErrno);
        if line.message.starts_with("HCOH:") {
            self.disabled(line, Phase::Connect, fault, told);
            return;
        }
        let asked = Asked {
            address: address(line.message).to_owned(),
            scheme: scheme(line.message).to_ascii_lowercase(),
            ..Asked::new(in_parentheses(line.message), class(line.message))
        };
        let failed = failure(line, Phase::Connect, Some(fault), Some(503));
        self.begin(line, failed, asked, told);
        self.tell(line.thread, None, told);
    }

    /// Said already, unless the attempt failed before it was made.
    fn after_attempt(&mut self, line: &ErrorLine<'_>, told: &mut Vec<What>) {
        if self.open.iter().any(|open| open.thread == line.thread) {
            self.open.retain(|open| open.thread != line.thread);
            return;
        }
        let asked = Asked {
            client: line.client_address().to_owned(),
            ..Asked::new(peer_at_end(line.message), Class::of_module(line.module))
        };
        let failed = failure(line, Phase::Connect, fault(line.error), Some(503));
        let attributed = attribute(&self.log, &asked);
        told.push(What::Failed(finished(&self.log, failed, attributed)));
    }

    fn disabled(&mut self, line: &ErrorLine<'_>, phase: Phase, fault: Fault, told: &mut Vec<What>) {
        let name = in_parentheses(line.message);
        if phase != Phase::Unspecified {
            // A health check fails every few seconds, and nothing is logged when it is well again.
            let minute = line.minute().to_owned();
            match self.checked.iter_mut().find(|(checked, _)| checked == name) {
                Some((_, last)) if *last == minute => return,
                Some((_, last)) => *last = minute,
                None => {
                    if self.checked.len() >= CHECKED_MAX {
                        self.checked.pop_front();
                    }
                    self.checked.push_back((name.to_owned(), minute));
                }
            }
        }
        let asked = Asked {
            address: address(line.message).to_owned(),
            member: true,
            ..Asked::new(name, Class::Any)
        };
        let attributed = attribute(&self.log, &asked);
        told.push(What::Disabled(v1::EndpointDisabled {
            instance: self.log.instance.clone(),
            endpoint: attributed.endpoint,
            upstream: attributed.upstream,
            phase: phase.into(),
            fault: fault.into(),
            message: redact::line(line.said()),
        }));
    }

    /// A failure begins; one that the thread left open ends.
    fn begin(
        &mut self,
        line: &ErrorLine<'_>,
        failed: v1::RequestFailed,
        asked: Asked,
        told: &mut Vec<What>,
    ) {
        let before = self.open.iter().position(|open| open.thread == line.thread);
        if let Some(open) = before.and_then(|at| self.open.remove(at)) {
            // A certificate that was refused, and what came of it.
            let certificate =
                open.failed.fault() == Fault::TlsCertificate && failed.phase() == Phase::Send;
            if certificate {
                self.open.push_back(Open { asked, told: false, ..open });
                return;
            }
            self.told_alone(open, told);
        }
        if self.open.len() >= THREADS_MAX
            && let Some(oldest) = self.open.pop_front()
        {
            self.told_alone(oldest, told);
        }
        self.open.push_back(Open { thread: line.thread.to_owned(), failed, asked, told: false });
    }

    /// No companion came.
    fn told_alone(&self, open: Open, told: &mut Vec<What>) {
        // A certificate at fault is another peer's, where nothing failed behind it.
        if !open.told && open.failed.fault() != Fault::TlsCertificate {
            let attributed = attribute(&self.log, &open.asked);
            told.push(What::Failed(finished(&self.log, open.failed, attributed)));
        }
    }

    /// Tells what the thread has open, and keeps that it was told for the companions to come.
    fn tell(&mut self, thread: &str, path: Option<&str>, told: &mut Vec<What>) {
        let Some(open) = self.open.iter_mut().find(|open| open.thread == thread) else { return };
        if let Some(path) = path {
            path.clone_into(&mut open.asked.path);
        }
        if !std::mem::replace(&mut open.told, true) {
            let attributed = attribute(&self.log, &open.asked);
            told.push(What::Failed(finished(&self.log, open.failed.clone(), attributed)));
        }
    }

    /// "Error reading from remote server returned by /path", "bad HTTP/1.1 header returned by /path (GET)".
    fn returned(&mut self, line: &ErrorLine<'_>, told: &mut Vec<What>) {
        let (words, path) = line.message.split_once(" returned by ").unwrap_or((line.message, ""));
        let said = if line.code == 1106 {
            Some((Phase::Header, Some(Fault::HeaderInvalid), 502))
        } else {
            returned(words)
        };
        let Some((phase, said_fault, status)) = said else { return };
        let (path, method) = match path.rsplit_once(" (") {
            Some((path, method)) if line.code == 1106 => (path, method.trim_end_matches(')')),
            _ => (path, ""),
        };
        let at = self.open.iter().position(|open| open.thread == line.thread);
        let open = at.and_then(|at| self.open.remove(at));
        if open.as_ref().is_some_and(|open| open.told) {
            return;
        }
        let (mut failed, mut asked) = match open {
            Some(open) => (open.failed, open.asked),
            None => (failure(line, phase, said_fault, None), Asked::default()),
        };
        failed.phase = phase.into();
        match (said_fault, failed.fault()) {
            (_, Fault::TlsCertificate | Fault::HeaderTooBig) | (None, _) => {}
            // A handshake that failed is logged with an error that says nothing.
            (Some(fault), _) => failed.fault = fault.into(),
        }
        failed.status = Some(u32::from(status));
        failed.path = redact::line(path);
        method.clone_into(&mut failed.method);
        path.clone_into(&mut asked.path);
        line.client_address().clone_into(&mut asked.client);
        if let Some(name) = words.strip_prefix("DNS lookup failure for: ") {
            name.clone_into(&mut asked.name);
        }
        let attributed = attribute(&self.log, &asked);
        told.push(What::Failed(finished(&self.log, failed, attributed)));
    }

    /// "Error dispatching request to HOST:PORT: (polling)", where host and port are httpd's own.
    fn dispatch(&mut self, line: &ErrorLine<'_>, told: &mut Vec<What>) {
        let at = self.open.iter().position(|open| open.thread == line.thread);
        let open = at.and_then(|at| self.open.remove(at));
        // The client went away.
        if line.message.contains("(passing ") || line.message.contains("client") {
            return;
        }
        let begun = open.as_ref().map(|open| open.failed.fault());
        let fault = match (fault(line.error), begun) {
            (_, Some(fault @ Fault::WrongProtocol)) => fault,
            (Some(fault), _) | (None, Some(fault)) => fault,
            (None, None) => Fault::Unspecified,
        };
        let status = if fault == Fault::Timeout { 504 } else { 503 };
        let failed = failure(line, Phase::Header, Some(fault), Some(status));
        let asked = Asked { class: Class::Fastcgi, ..Asked::default() };
        let attributed = attribute(&self.log, &asked);
        told.push(What::Failed(finished(&self.log, failed, attributed)));
    }

    fn end(&mut self, line: &ErrorLine<'_>, phase: Phase, told: &mut Vec<What>) {
        let at = self.open.iter().position(|open| open.thread == line.thread);
        let open = at.and_then(|at| self.open.remove(at)).filter(|open| !open.told);
        let begun = open.as_ref().map(|open| open.failed.fault());
        let fault = match (phase, line.error) {
            // A body that is not framed as it says; what ends too early has an error of its own.
            (Phase::Body, "20014") => Fault::BodyInvalid,
            (_, error) => fault(error).or(begun).unwrap_or(Fault::Unspecified),
        };
        let status = match (phase, line.code, fault) {
            (Phase::Body, ..) => None,
            (_, 860, Fault::Timeout) => Some(504),
            (_, 860, _) => Some(500),
            _ => Some(503),
        };
        let asked = Asked::new(peer_at_end(line.message), Class::of_module(line.module));
        let failed = failure(line, phase, Some(fault), status);
        let attributed = attribute(&self.log, &asked);
        told.push(What::Failed(finished(&self.log, failed, attributed)));
    }
}

impl Lines for ErrorLines {
    fn read(&mut self, line: &str, told: &mut Vec<Told>) {
        let parsed = parse(line);
        if let Some(refused) = self.refused.take() {
            let why = if parsed.is_some() { "" } else { line };
            let error = redact::line(format!("{refused} {why}"));
            told.push(Told { at_us: None, what: What::Reloaded(self.reloaded(error)) });
        }
        let Some(line) = parsed else { return };
        if !line.client.is_empty() {
            self.log.shared.complained(line.client_address(), line.stamp);
        }
        let mut said = Vec::new();
        self.line(&line, &mut said);
        // The stamp is in a time without a zone.
        told.extend(said.into_iter().map(|what| Told { at_us: None, what }));
    }

    fn pause(&mut self, told: &mut Vec<Told>) {
        if let Some(refused) = self.refused.take() {
            let what = What::Reloaded(self.reloaded(redact::line(refused)));
            told.push(Told { at_us: None, what });
        }
        let threads: Vec<String> = self
            .open
            .iter()
            .filter(|open| !open.told && open.failed.fault() != Fault::TlsCertificate)
            .map(|open| open.thread.clone())
            .collect();
        let mut said = Vec::new();
        threads.iter().for_each(|thread| self.tell(thread, None, &mut said));
        told.extend(said.into_iter().map(|what| Told { at_us: None, what }));
    }

    fn sight(&mut self, seeing: bool) {
        self.log.shared.errors_seen(seeing);
    }
}

/// The rule of a line; only modules that speak to upstreams may say that one failed.
fn rule_of(line: &ErrorLine<'_>) -> Option<Rule> {
    if line.code == 0 {
        let scgi = line.module == "proxy_scgi";
        let fault = match line.message {
            text if text.starts_with("Script timed out before returning headers") => Fault::Timeout,
            text if text.starts_with("Premature end of script headers") => Fault::Closed,
            _ => return None,
        };
        return scgi.then_some(Rule::Begin(Phase::Header, Some(fault)));
    }
    if line.error == "24" && (line.module == "core" || line.module.starts_with("mpm")) {
        return Some(Rule::Exhausted(AppEvent::FdsExhausted));
    }
    let rule = rule(line.code)?;
    let own = matches!(
        rule,
        Rule::Crashed | Rule::Exhausted(_) | Rule::Restarting | Rule::Running | Rule::Refused
    );
    let module = line.module;
    let upstream = module.is_empty() || module.starts_with("proxy") || module == "ssl";
    (own || upstream).then_some(rule)
}

fn failure(
    line: &ErrorLine<'_>,
    phase: Phase,
    said: Option<Fault>,
    status: Option<u32>,
) -> v1::RequestFailed {
    let fault = said.or_else(|| fault(line.error)).unwrap_or(Fault::Unspecified);
    v1::RequestFailed {
        gateway: super::NAME.to_owned(),
        phase: phase.into(),
        fault: fault.into(),
        status,
        count: 1,
        message: redact::line(line.said()),
        ..v1::RequestFailed::default()
    }
}

/// The fact, with what it is about. Another member may have answered where a balancer has several.
fn finished(log: &Log, failed: v1::RequestFailed, of: Attributed) -> v1::RequestFailed {
    let retried = of.peers > 1 && failed.phase() == Phase::Connect;
    v1::RequestFailed {
        instance: log.instance.clone(),
        route: of.route,
        endpoint: of.endpoint,
        upstream: of.upstream,
        status: failed.status.filter(|_| !retried),
        ..failed
    }
}
