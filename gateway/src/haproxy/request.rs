//! What the line of a request means: section 8.5 "Session state at disconnection" of the manual.
//!
//! The first letter of the state says who or what ended the session, the second when. The stage of connecting
//! (`C`) has the TLS handshake in it. `SC` is any error of a connection, and a server that closed before it had
//! answered (`SH`) may have sent FIN or RST: the words of `%[bc_err_str]`, where the format has them, and an
//! alert just before say more.

use std::collections::HashMap;

use jiff::fmt::strtime;
use why502_proto::v1::{self, Fault, Phase};

use super::check;
use super::format::Request;
use super::{NAME, address};

/// What is known of a proxy when its lines are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Route of what no condition leads elsewhere.
    pub route: String,
    /// It refuses responses, or changes their status.
    pub meddles: bool,
    /// It has no server and a page of its own for 503: this is its answer.
    pub page: bool,
}

/// What is known of a configuration when its lines are read. Empty where only lines are there.
#[derive(Clone, Debug, Default)]
pub struct Model {
    /// Name of the instance in facts.
    pub instance: String,
    /// Routes by frontend and backend.
    pub routes: HashMap<(String, String), String>,
    /// Endpoints by backend and server.
    pub servers: HashMap<String, HashMap<String, String>>,
    /// Proxies by name.
    pub proxies: HashMap<String, About>,
}

impl Model {
    /// The endpoint that a server is; "": not known.
    pub fn endpoint(&self, backend: &str, server: &str) -> String {
        match self.servers.get(backend) {
            Some(servers) => servers.get(server).cloned().unwrap_or_default(),
            None if self.proxies.is_empty() => format!("{backend}/{server}"),
            None => String::new(),
        }
    }

    fn route(&self, frontend: &str, backend: &str) -> String {
        if let Some(route) = self.routes.get(&(frontend.to_owned(), backend.to_owned())) {
            return route.clone();
        }
        match self.proxies.get(frontend) {
            Some(about) if frontend == backend => about.route.clone(),
            Some(about) => format!("{} {backend}", about.route),
            None => format!("{frontend}/{backend}"),
        }
    }

    fn is(&self, request: &Request<'_>, what: fn(&About) -> bool) -> bool {
        [request.frontend, request.backend]
            .iter()
            .any(|name| self.proxies.get(*name).is_some_and(what))
    }
}

/// What one line tells.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Meaning {
    /// When it was over, microseconds since 1970, where the line has a time with a zone.
    pub at_us: Option<i64>,
    /// The request failed.
    pub failed: Option<v1::RequestFailed>,
    /// It was answered.
    pub answered: Option<v1::RequestCounts>,
}

/// Reads it. `alerted`: why a connection of the same backend just could not be made.
pub fn meaning(request: &Request<'_>, model: &Model, alerted: Option<Fault>) -> Meaning {
    let chosen = !request.server.starts_with('<');
    let fault = fault(request, model, alerted);
    let relayed = relayed(request, model);
    let (phase, fault) = match (fault, relayed) {
        (Some(felt), _) => felt,
        (None, true) => (Phase::Header, Fault::Relayed),
        (None, false) => (Phase::Unspecified, Fault::Unspecified),
    };
    let failed = relayed || phase != Phase::Unspecified;
    let status = request.status.and_then(|status| u32::try_from(status).ok());
    Meaning {
        at_us: at_us(request),
        failed: failed.then(|| v1::RequestFailed {
            gateway: NAME.to_owned(),
            instance: model.instance.clone(),
            route: model.route(request.frontend, request.backend),
            endpoint: endpoint(request, model),
            upstream: request.backend.to_owned(),
            phase: phase.into(),
            fault: fault.into(),
            // A body that ends early has a status that says nothing.
            status: status.filter(|_| phase != Phase::Body),
            method: request.method.to_owned(),
            path: path(request),
            count: 1,
            elapsed_ms: request.total.and_then(|total| u64::try_from(total).ok()),
            reused: None,
            message: message(request),
        }),
        answered: status
            .filter(|status| *status >= 100 && (chosen || failed))
            .map(|status| counts(request, model, status, relayed)),
    }
}

fn fault(request: &Request<'_>, model: &Model, alerted: Option<Fault>) -> Option<(Phase, Fault)> {
    let http = request.status.is_some();
    let upgraded = request.status == Some(101);
    let silent = !http && request.bytes == Some(0);
    let error = || error(request, model);
    let mut letters = request.state.chars();
    let found = match (letters.next()?, letters.next()?) {
        ('S', 'C') if request.server == "<NOSRV>" => {
            if model.is(request, |about| about.page) {
                return None;
            }
            (Phase::Select, Fault::NoLiveUpstreams)
        }
        ('S', 'C') => connecting(error().or(alerted).unwrap_or(Fault::Unspecified)),
        ('s', 'C') => connecting(Fault::Timeout),
        ('S' | 's', 'Q') => (Phase::Select, Fault::ConnectionLimit),
        ('S', 'H') => (Phase::Header, error().unwrap_or(Fault::Closed)),
        ('s', 'H') => (Phase::Header, Fault::Timeout),
        // Too big, not HTTP, or refused by a rule: the line does not say which.
        ('P', 'H') if request.status == Some(502) => (Phase::Header, Fault::Unspecified),
        ('S', 'D') if http && !upgraded => (Phase::Body, Fault::Closed),
        ('s', 'D') if http && !upgraded => (Phase::Body, Fault::Timeout),
        // An idle session that ends is how sessions end; one without an answer is not.
        ('S', 'D') if silent => (Phase::Header, Fault::Econnreset),
        ('s', 'D') if silent => (Phase::Header, Fault::Timeout),
        ('P', 'C') => (Phase::Connect, Fault::Emfile),
        ('R', 'C') => (Phase::Connect, error().or(alerted).unwrap_or(Fault::OtherErrno)),
        ('D' | 'K', 'H') if matches!(request.status, Some(502..=504)) => {
            (Phase::Header, Fault::Unspecified)
        }
        _ => return None,
    };
    Some(found)
}

fn connecting(fault: Fault) -> (Phase, Fault) {
    match fault {
        Fault::TlsHandshake | Fault::TlsCertificate => (Phase::Tls, fault),
        _ => (Phase::Connect, fault),
    }
}

fn error(request: &Request<'_>, model: &Model) -> Option<Fault> {
    let fault = check::named(request.error)?;
    // connect(2) of a unix socket says EAGAIN for a full queue, which HAProxy takes for a lack of ports.
    let unix = endpoint(request, model).starts_with("unix:");
    Some(if unix && fault == Fault::Eaddrnotavail { Fault::Eagain } else { fault })
}

/// Whether the server itself answered 502, 503 or 504.
fn relayed(request: &Request<'_>, model: &Model) -> bool {
    matches!(request.status, Some(502..=504))
        && request.state.starts_with("--")
        && !request.server.starts_with('<')
        && request.response.is_some_and(|response| response >= 0)
        && !model.is(request, |about| about.meddles)
}

fn endpoint(request: &Request<'_>, model: &Model) -> String {
    if request.server.starts_with('<') {
        return String::new();
    }
    let numeric = request.port.parse::<u16>().is_ok_and(|port| port != 0);
    let asked = address::joined(request.address, request.port);
    if numeric && address::is_numeric(&asked) {
        return asked;
    }
    model.endpoint(request.backend, request.server)
}

fn path(request: &Request<'_>) -> String {
    let path = request.path.split(['?', '#']).next().unwrap_or("");
    // HTTP/2 has the whole URL there: "https://shop.example/api".
    let behind =
        path.split_once("://").map(|(_, rest)| rest.find('/').map_or("/", |at| &rest[at..]));
    crate::redact::line(behind.unwrap_or(path))
}

fn message(request: &Request<'_>) -> String {
    let error = request.error;
    let known = !matches!(error, "" | "-" | "Success");
    let text = format!(
        "{} {}{}{}",
        request.state,
        request.server,
        if known { ": " } else { "" },
        if known { error } else { "" }
    );
    crate::redact::line(text)
}

fn counts(request: &Request<'_>, model: &Model, status: u32, relayed: bool) -> v1::RequestCounts {
    let is = |range: std::ops::Range<u32>| u32::from(range.contains(&status));
    let slowest = request.response.zip(request.connect).filter(|(response, _)| *response >= 0);
    v1::RequestCounts {
        gateway: NAME.to_owned(),
        instance: model.instance.clone(),
        route: model.route(request.frontend, request.backend),
        endpoint: endpoint(request, model),
        period_ms: 0,
        informational: is(100..200),
        success: is(200..300),
        redirect: is(300..400),
        client_error: is(400..500),
        server_error: is(500..600),
        relayed: u32::from(relayed),
        slowest_ms: slowest
            .and_then(|(response, connect)| u64::try_from(response + connect.max(0)).ok()),
        bad_gateway: is(502..503),
        unavailable: is(503..504),
        gateway_timeout: is(504..505),
    }
}

/// The stamps are of the begin.
fn at_us(request: &Request<'_>) -> Option<i64> {
    let total = request.total.unwrap_or(0).clamp(0, 86_400_000) * 1000;
    if let Some(seconds) = request.seconds {
        let begun = seconds.checked_mul(1_000_000)?;
        return begun.checked_add(request.milliseconds.unwrap_or(0).clamp(0, 999) * 1000 + total);
    }
    let begun = strtime::parse("%d/%b/%Y:%H:%M:%S %z", request.stamp).ok()?.to_timestamp().ok()?;
    let part = request.milliseconds.unwrap_or(0).clamp(0, 999) * 1000;
    begun.as_microsecond().checked_add(part + total)
}
