//! App servers that write to a file of their own and not to the journal: php-fpm as Debian packages it, with
//! /var/log/php8.2-fpm.log for php8.2-fpm.service.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use why502_proto::{Kind, v1};

use super::patterns;
use crate::clock::Moment;
use crate::observe::{Mark, Marks, Observed, Observer};
use crate::source::Roots;
use crate::source::gateway::tail::Tail;

/// How often the logs are looked at: their servers time requests in whole seconds.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// How often installed versions are looked for, in looks.
const LIST_EVERY: u32 = 60;

/// How many logs are followed; hosts have one to three versions of PHP.
const LOGS_MAX: usize = 16;

struct Log {
    tail: Tail,
    unit: String,
    /// Why it could not be read, as it was told.
    blind: String,
}

/// Follows the logs for ever, or until the agent shuts down.
pub(super) async fn follow(roots: &Roots, observer: &Observer, marks: &Marks) {
    let mut logs: BTreeMap<PathBuf, Log> = BTreeMap::new();
    let mut looks = 0;
    loop {
        if looks % LIST_EVERY == 0 {
            add_installed(roots, marks, &mut logs);
        }
        looks += 1;
        for log in logs.values_mut() {
            if !log.read(observer).await {
                return;
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A version of PHP has a directory below /etc/php. Its log may come later, and is then read from its beginning.
fn add_installed(roots: &Roots, marks: &Marks, logs: &mut BTreeMap<PathBuf, Log>) {
    let Ok(versions) = fs::read_dir(roots.root.join("etc/php")) else { return };
    for version in versions.flatten() {
        let version = version.file_name().to_string_lossy().into_owned();
        let path = roots.root.join(format!("var/log/php{version}-fpm.log"));
        if logs.len() < LOGS_MAX && !logs.contains_key(&path) {
            let mark = marks.get(&mark_name(&path)).cloned();
            let tail = Tail::new(path.clone(), mark);
            let unit = format!("php{version}-fpm.service");
            logs.insert(path, Log { tail, unit, blind: String::new() });
        }
    }
}

fn mark_name(path: &std::path::Path) -> String {
    format!("log {}", path.display())
}

impl Log {
    /// Reads what is new. `false`: the agent shuts down.
    async fn read(&mut self, observer: &Observer) -> bool {
        loop {
            let now = Instant::now();
            let mut lines = Vec::new();
            let read = self.tail.look(now).and_then(|()| self.tail.read(now, &mut lines));
            self.tell_sight(observer, read.as_ref().err());
            if lines.is_empty() {
                return true;
            }
            let events: Vec<Kind> = lines
                .iter()
                .filter_map(|line| patterns::match_line(line))
                .map(|event| {
                    Kind::AppServerEvent(v1::AppServerEvent { unit: self.unit.clone(), ..event })
                })
                .collect();
            for event in events {
                let seen = Observed { at: Moment::now(), kind: Some(event), mark: None };
                if !observer.observe_waiting(seen).await {
                    return false;
                }
            }
            let mark = Mark { name: mark_name(self.tail.path()), position: self.tail.position() };
            let seen = Observed { at: Moment::now(), kind: None, mark: Some(mark) };
            if !observer.observe_waiting(seen).await {
                return false;
            }
            if !matches!(read, Ok(true)) {
                return true;
            }
        }
    }

    fn tell_sight(&mut self, observer: &Observer, error: Option<&std::io::Error>) {
        let scope = self.tail.path().to_string_lossy().into_owned();
        let reason = error.map(|error| format!("cannot read {scope}: {error}"));
        let reason = reason.unwrap_or_default();
        if reason == self.blind {
            return;
        }
        if reason.is_empty() {
            observer.seeing(v1::Source::Journal, &scope);
        } else {
            let grant = "let the user of the agent read it: group adm, or CAP_DAC_READ_SEARCH";
            observer.blinded(v1::Source::Journal, &scope, &reason, grant);
        }
        self.blind = reason;
    }
}
