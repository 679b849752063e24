//! What was told of one gateway, so that only news is told.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use why502_gateway::files::below;
use why502_gateway::nginx::Declared;
use why502_gateway::place::Problem;
use why502_proto::{Kind, v1};

use crate::observe::Observer;
use crate::source::UnixClient;

/// Inode and time of change of each file that a configuration depends on; `None`: it is not there.
pub type Stamp = Vec<Option<(u64, i64)>>;

/// The facts of one gateway that hold now.
#[derive(Debug, Default)]
pub struct Told {
    seen: Option<v1::GatewaySeen>,
    declared: Declared,
    problems: BTreeSet<Problem>,
}

impl Told {
    /// Tells that it is there.
    pub fn seen(&mut self, observer: &Observer, seen: v1::GatewaySeen) {
        if self.seen.as_ref() != Some(&seen) {
            observer.observe(Kind::GatewaySeen(seen.clone()));
            self.seen = Some(seen);
        }
    }

    /// Tells endpoints that are new; what it declares besides is not known yet.
    pub fn some_declared<'a>(
        &mut self,
        observer: &Observer,
        some: impl Iterator<Item = &'a v1::EndpointDeclared>,
    ) {
        for fact in some {
            let name = (fact.route.clone(), fact.endpoint.clone());
            if self.declared.get(&name) != Some(fact) {
                observer.observe(Kind::EndpointDeclared(fact.clone()));
                self.declared.insert(name, fact.clone());
            }
        }
    }

    /// Tells which endpoints are new, and which are no more: these are all.
    pub fn all_declared(&mut self, observer: &Observer, all: Declared) {
        self.some_declared(observer, all.values());
        let gone = self.declared.iter().filter(|(name, _)| !all.contains_key(name));
        gone.for_each(|(_, fact)| withdraw(observer, fact));
        self.declared = all;
    }

    /// Tells what is not understood, and what was not and is no more.
    pub fn problems(
        &mut self,
        observer: &Observer,
        (gateway, instance): (&str, &str),
        now: &BTreeSet<Problem>,
    ) {
        let tell = |problem: &Problem, mended| {
            observer.observe(Kind::GatewayConfigError(v1::GatewayConfigError {
                gateway: gateway.to_owned(),
                instance: instance.to_owned(),
                file: problem.place.file.to_string(),
                line: problem.place.line,
                text: problem.text.clone(),
                mended,
            }));
        };
        now.difference(&self.problems).for_each(|problem| tell(problem, false));
        self.problems.difference(now).for_each(|problem| tell(problem, true));
        self.problems.clone_from(now);
    }

    /// Tells that its configuration is gone, and it does not run.
    pub fn gone(&self, observer: &Observer, instance: &str) {
        self.declared.values().for_each(|fact| withdraw(observer, fact));
        let instance = instance.to_owned();
        observer.observe(Kind::GatewayGone(v1::GatewayGone { instance }));
    }

    /// Unix sockets that it connects to, as `user`.
    pub fn unix_clients(&self, user: Option<&(u32, Vec<u32>)>) -> Vec<UnixClient> {
        let paths: BTreeSet<&str> = self
            .declared
            .keys()
            .filter_map(|(_, endpoint)| endpoint.strip_prefix("unix:"))
            .collect();
        let client = |path: &str| UnixClient { path: path.into(), user: user.cloned() };
        paths.into_iter().map(client).collect()
    }
}

fn withdraw(observer: &Observer, fact: &v1::EndpointDeclared) {
    observer.observe(Kind::EndpointWithdrawn(v1::EndpointWithdrawn {
        instance: fact.instance.clone(),
        route: fact.route.clone(),
        endpoint: fact.endpoint.clone(),
    }));
}

/// What files look like now, below `root`.
pub fn stamp<'a>(root: &Path, files: impl Iterator<Item = &'a PathBuf>) -> Stamp {
    let one = |path: &PathBuf| {
        let metadata = std::fs::metadata(below(root, path)).ok()?;
        let nanoseconds = metadata.mtime().wrapping_mul(1_000_000_000) + metadata.mtime_nsec();
        Some((metadata.ino(), nanoseconds))
    };
    files.map(one).collect()
}
