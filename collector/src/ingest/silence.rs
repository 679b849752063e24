//! `agent_silent`: the one fact that the collector writes itself.
//!
//! It belongs to a pseudo-host of the collector's own name; each run of the collector is a boot of it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use why502_proto::{Entity, Kind, v1};

use super::presence::{Presences, SILENT_AFTER};
use crate::clock::{Epoch, now_us};
use crate::store::{Append, Arrived, Store};

/// How often the hosts are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// After the collector's start, agents have this long to come back before they count as silent: their longest
/// pause between two attempts, 30 s.
const GRACE: Duration = Duration::from_secs(30);

/// Writes the begin and the end of every host's silence until `stopping`.
pub async fn watch_for_silence(
    store: Store,
    presences: Presences,
    own_name: String,
    mut stopping: watch::Receiver<bool>,
) {
    let began = Instant::now();
    let began_us = now_us();
    let boot = format!("run-{began_us}");
    let epoch = Epoch { at_us: began_us, tolerance_us: 0 };
    let grace_us = i64::try_from((GRACE.saturating_sub(SILENT_AFTER)).as_micros()).unwrap_or(0);
    match store.hosts().await {
        Ok(hosts) => {
            for host in hosts.iter().filter(|host| host.name != own_name) {
                presences.remember(&host.name, began_us.saturating_add(grace_us));
            }
        }
        Err(error) => tracing::error!("the hosts of earlier runs are not watched: {error}"),
    }
    let mut seq = 0;
    // Bounded by the hosts that may be known, and written in one go.
    let mut unwritten: VecDeque<Arrived> = VecDeque::new();
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
        let now_us = now_us();
        for (host, ended) in presences.silences(now_us) {
            seq += 1;
            let kind = Kind::AgentSilent(v1::AgentSilent { host, ended });
            unwritten.push_back(fact(seq, kind, began, now_us));
        }
        if unwritten.is_empty() {
            continue;
        }
        let facts = unwritten.drain(..).collect();
        let (host, boot) = (own_name.clone(), boot.clone());
        let append = Append { host, boot, epoch: Some(epoch), heard_us: now_us, facts };
        if let Err(error) = store.append(append).await {
            tracing::error!("a host's silence could not be stored: {error}");
        }
    }
}

fn fact(seq: u64, kind: Kind, began: Instant, now_us: i64) -> Arrived {
    let boottime_us = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
    let entity = Entity::of(&kind);
    let fact = v1::Fact { seq, boottime_us, realtime_us: now_us, kind: Some(kind) };
    Arrived { seq, at_us: now_us, tolerance_us: 0, fact, entity }
}
