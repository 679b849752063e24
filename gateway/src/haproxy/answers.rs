//! What HAProxy says of its servers: `show stat` and `show servers state` of its stats socket, sections 9.1 and 9.3 of
//! the management manual.

use std::collections::{BTreeMap, HashMap, HashSet};

use why502_proto::v1::{self, Fault, Phase};

use super::{address, check};
use crate::effective::Effective;

/// What is asked: lines of servers only (type 4) of every proxy; then where their names lead.
pub const QUESTIONS: [&str; 2] = ["show stat -1 4 -1", "show servers state"];

/// `srv_admin_state`: maintenance by a command, of the server it tracks, or by the configuration.
const MAINTENANCE: u32 = 0x01 | 0x02 | 0x04;

/// A server as `show servers state` has it.
#[derive(Debug)]
struct State<'a> {
    backend: &'a str,
    name: &'a str,
    /// As the configuration names it.
    endpoint: String,
    /// Where that leads; `None`: nowhere, or no IP address.
    address: Option<String>,
    down: bool,
}

/// Takes the answers to [`QUESTIONS`] in. An answer that is none changes nothing.
pub fn take(effective: &mut Effective, answers: &[String]) {
    let [stat, state] = answers else { return };
    let states = states(state, effective);
    let mut groups: BTreeMap<(&str, &str), Vec<&State<'_>>> = BTreeMap::new();
    for state in &states {
        groups.entry((state.backend, &state.endpoint)).or_default().push(state);
    }
    for fact in &mut effective.endpoints {
        let Some(group) = groups.get(&(fact.upstream.as_str(), fact.endpoint.as_str())) else {
            continue;
        };
        fact.down = group.iter().all(|state| state.down);
        if !address::is_numeric(&fact.endpoint) {
            fact.addresses = group.iter().filter_map(|state| state.address.clone()).collect();
            fact.addresses.sort();
            fact.addresses.dedup();
        }
    }
    // One of several servers with one name is named by its address.
    let named = |state: &State<'_>| match groups.get(&(state.backend, state.endpoint.as_str())) {
        Some(group) if group.len() > 1 => {
            state.address.clone().unwrap_or_else(|| state.endpoint.clone())
        }
        _ => state.endpoint.clone(),
    };
    // A template has more servers than the name has addresses: one without any is no failure beside others.
    let spare = |state: &State<'_>| {
        let group = groups.get(&(state.backend, state.endpoint.as_str()));
        state.address.is_none()
            && group.is_some_and(|group| group.iter().any(|s| s.address.is_some()))
    };
    let known = states.iter().filter(|state| !spare(state));
    let endpoints: HashMap<(&str, &str), String> =
        known.map(|state| ((state.backend, state.name), named(state))).collect();
    effective.disabled = down(stat, &effective.instance, &endpoints);
}

/// By the names of its columns; those behind `srv_port` are not in every version.
fn states<'a>(text: &'a str, effective: &Effective) -> Vec<State<'a>> {
    let mut lines = text.lines().skip_while(|line| !line.starts_with("# "));
    let columns: HashMap<&str, usize> = match lines.next() {
        Some(head) => head[2..].split(' ').zip(0..).collect(),
        None => return Vec::new(),
    };
    let declared: HashSet<(&str, &str)> =
        effective.endpoints.iter().map(|e| (e.upstream.as_str(), e.endpoint.as_str())).collect();
    let mut sockets: HashMap<&str, Vec<&str>> = HashMap::new();
    for (backend, endpoint) in declared.iter().filter(|(_, endpoint)| endpoint.starts_with("unix:"))
    {
        sockets.entry(*backend).or_default().push(*endpoint);
    }
    lines
        .filter_map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            let word = |name: &str| columns.get(name).and_then(|at| words.get(*at)).copied();
            let (backend, port) = (word("be_name")?, word("srv_port")?);
            let address = address::joined(word("srv_addr")?, port);
            let fqdn = word("srv_fqdn").filter(|name| *name != "-");
            let mut endpoint =
                fqdn.map_or_else(|| address.clone(), |name| address::joined(name, port));
            if !declared.contains(&(backend, endpoint.as_str())) {
                // A socket has no address here.
                let only =
                    sockets.get(backend).filter(|s| s.len() == 1 && !address::is_numeric(&address));
                endpoint = only.map_or(endpoint, |sockets| sockets[0].to_owned());
            }
            Some(State {
                backend,
                name: word("srv_name")?,
                endpoint,
                address: Some(address).filter(|address| address::is_numeric(address)),
                down: word("srv_admin_state")?.parse::<u32>().ok()? & MAINTENANCE != 0,
            })
        })
        .collect()
}

/// Servers that are down by their check, or whose name does not resolve.
fn down(
    stat: &str,
    instance: &str,
    endpoints: &HashMap<(&str, &str), String>,
) -> Vec<v1::EndpointDisabled> {
    let mut lines = stat.lines().skip_while(|line| !line.starts_with("# "));
    let Some(head) = lines.next() else { return Vec::new() };
    let columns: HashMap<&str, usize> = head[2..].split(',').zip(0..).collect();
    let mut found = Vec::new();
    for line in lines {
        let words = cells(line);
        let cell =
            |name: &str| columns.get(name).and_then(|at| words.get(*at)).map_or("", String::as_str);
        let (backend, server, status) = (cell("pxname"), cell("svname"), cell("status"));
        let resolution = status == "MAINT (resolution)";
        let is_server = !matches!(server, "" | "BACKEND" | "FRONTEND");
        let Some(endpoint) = endpoints.get(&(backend, server)) else { continue };
        if !is_server || !(status.starts_with("DOWN") || resolution) {
            continue;
        }
        let (code, info) = (cell("check_status"), cell("last_chk"));
        let (phase, fault) = match resolution {
            true => (Phase::Resolve, Fault::DnsFailed),
            false => check::felt(code, cell("check_code"), info),
        };
        let said = [status, cell("check_desc"), info]
            .iter()
            .filter(|part| !part.is_empty())
            .copied()
            .collect::<Vec<_>>();
        found.push(v1::EndpointDisabled {
            instance: instance.to_owned(),
            endpoint: endpoint.clone(),
            upstream: backend.to_owned(),
            phase: phase.into(),
            fault: fault.into(),
            message: crate::redact::line(said.join(", ")),
        });
    }
    found
}

/// Cells of a line of CSV; those with a comma are in quotes (RFC 4180).
fn cells(line: &str) -> Vec<String> {
    let mut cells = Vec::new();
    let (mut cell, mut quoted) = (String::new(), false);
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            ',' if !quoted => cells.push(std::mem::take(&mut cell)),
            _ => cell.push(letter),
        }
    }
    cells.push(cell);
    cells
}
