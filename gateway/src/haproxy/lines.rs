//! A log of HAProxy: requests by the formats of its frontends, and what it says of its servers and itself.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use why502_proto::v1::{self, AppEvent, Fault};

use super::alert::{self, Alert};
use super::format::{CLF, Format, HTTP, HTTPS, TCP};
use super::request::{self, Model};
use super::{NAME, prefix};
use crate::lines::{Lines, Told, What};

/// Each `log` line has its own copy of what it takes, almost next to each other. No two requests have the same line.
const COPIES_MAX: usize = 8;
/// Backends with an alert that waits for its request.
const ALERTED_MAX: usize = 256;

/// A reader.
#[derive(Clone, Debug)]
pub struct Reader {
    model: Arc<Model>,
    formats: Arc<[Format]>,
    requests: VecDeque<String>,
    /// The last line that was about no request: the same may happen again when another came between.
    said: String,
    alerted: HashMap<String, Fault>,
    /// Label of the process whose refusal was told.
    refused: String,
}

impl Reader {
    /// With what a configuration says.
    pub fn new(model: Arc<Model>, formats: Arc<[Format]>) -> Self {
        Self {
            model,
            formats,
            requests: VecDeque::new(),
            said: String::new(),
            alerted: HashMap::new(),
            refused: String::new(),
        }
    }

    /// With the formats that have names, and no configuration.
    pub fn plain() -> Self {
        Self::new(Arc::default(), named())
    }

    fn request(&mut self, line: &str, at_us: Option<i64>, told: &mut Vec<Told>) -> bool {
        let Some(request) = self.formats.iter().find_map(|format| format.read(line)) else {
            return false;
        };
        let alerted = match request.state.get(..2) {
            // Its connection was made, so what was said before is over.
            Some(_) if request.connect.is_some_and(|connect| connect >= 0) => {
                self.alerted.remove(request.backend);
                None
            }
            Some("SC" | "RC") => self.alerted.remove(request.backend),
            _ => None,
        };
        let meaning = request::meaning(&request, &self.model, alerted);
        let at_us = at_us.or(meaning.at_us);
        let whats = [meaning.failed.map(What::Failed), meaning.answered.map(What::Answered)];
        told.extend(whats.into_iter().flatten().map(|what| Told { at_us, what }));
        true
    }

    fn alert(&mut self, alert: &Alert<'_>, text: &str) -> Option<What> {
        let message = || crate::redact::line(alert::unlabelled(text).unwrap_or(text));
        match *alert {
            Alert::Down { backend, server, phase, fault } => {
                Some(What::Disabled(v1::EndpointDisabled {
                    instance: self.model.instance.clone(),
                    endpoint: self.model.endpoint(backend, server),
                    upstream: backend.to_owned(),
                    phase: phase.into(),
                    fault: fault.into(),
                    message: message(),
                }))
            }
            Alert::Connect { backend, fault } => {
                if self.alerted.len() >= ALERTED_MAX {
                    self.alerted.clear();
                }
                self.alerted.insert(backend.to_owned(), fault);
                None
            }
            // Many lines say why; the first of a process is the reason.
            Alert::Refused => {
                let label = text.split(" : ").next().unwrap_or("");
                if self.refused == label {
                    return None;
                }
                label.clone_into(&mut self.refused);
                Some(What::Reloaded(v1::GatewayReloaded {
                    gateway: NAME.to_owned(),
                    instance: self.model.instance.clone(),
                    error: message(),
                }))
            }
            Alert::WorkerEnded { pid, status } => (status > 128 && status != 143).then(|| {
                What::Event(v1::AppServerEvent {
                    server: NAME.to_owned(),
                    event: AppEvent::WorkerCrashed.into(),
                    pid,
                    signal: Some(status - 128),
                    text: message(),
                    ..v1::AppServerEvent::default()
                })
            }),
            Alert::Exhausted => Some(What::Event(v1::AppServerEvent {
                server: NAME.to_owned(),
                event: AppEvent::FdsExhausted.into(),
                text: message(),
                ..v1::AppServerEvent::default()
            })),
            Alert::Nothing => None,
        }
    }
}

impl Lines for Reader {
    fn read(&mut self, line: &str, told: &mut Vec<Told>) {
        let (text, at_us) = prefix::strip(line);
        if self.requests.iter().any(|seen| seen == text) {
            return;
        }
        if self.request(text, at_us, told) {
            self.requests.truncate(COPIES_MAX - 1);
            self.requests.push_front(text.to_owned());
            return;
        }
        // What it prints itself it also logs, where it logs; the label is all that differs.
        let own = alert::unlabelled(text);
        let said = own.unwrap_or(text);
        if own.is_some_and(|own| own.starts_with("haproxy version is")) {
            self.refused.clear();
        }
        if std::mem::replace(&mut self.said, said.to_owned()) == said {
            return;
        }
        let alert = alert::read(text).or_else(|| alert::read(own?));
        if let Some(what) = alert.and_then(|alert| self.alert(&alert, text)) {
            told.push(Told { at_us, what });
        }
    }
}

/// The formats that have names.
pub fn named() -> Arc<[Format]> {
    [HTTP, TCP, HTTPS, CLF].map(Format::new).into()
}

/// Whether a line is from a log in one of them.
pub fn knows(line: &str) -> bool {
    let (text, _) = prefix::strip(line);
    let alert = || alert::read(text).or_else(|| alert::read(alert::unlabelled(text)?));
    named().iter().any(|format| format.read(text).is_some()) || alert().is_some()
}
