//! `agent_silent`: the one fact that the collector writes itself.
//!
//! It belongs to a pseudo-host of the collector's own name, whose one boot outlives the collector's runs, so that a
//! silence that began in one run ends in the next. Only `seq` orders its facts; each is dated by when its host was last
//! heard.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use why502_explain::Seen;
use why502_proto::{Entity, Kind, v1};

use super::presence::{Presences, SILENT_AFTER, Silence};
use crate::chain::chain;
use crate::clock::now_us;
use crate::store::{Append, Arrived, Store, StoreError};

/// The pseudo-host's boot.
const BOOT: &str = "collector";
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
    let expected = Instant::now() + GRACE.saturating_sub(SILENT_AFTER);
    if let Err(error) = remember(&store, &presences, &own_name, expected).await {
        tracing::error!("the hosts of earlier runs are not watched: {}", chain(&error));
    }
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
        let silences = presences.silences(Instant::now());
        if !silences.is_empty()
            && let Err(error) = tell(&store, &own_name, &silences).await
        {
            // The store is closed or damaged, and the program about to end.
            tracing::error!("silences of hosts are not stored: {}", chain(&error));
        }
    }
}

/// Makes the hosts of earlier runs known, and which of them were silent.
async fn remember(
    store: &Store,
    presences: &Presences,
    own_name: &str,
    expected: Instant,
) -> Result<(), StoreError> {
    let silent = store.current(own_name).await?;
    let is_silent = |host: &str| {
        silent.iter().any(|Seen { kind, .. }| {
            matches!(kind, Kind::AgentSilent(silent) if silent.host == host && !silent.ended)
        })
    };
    for host in store.hosts().await?.iter().filter(|host| host.name != own_name) {
        presences.remember(&host.name, host.last_seen_us, is_silent(&host.name), expected);
    }
    Ok(())
}

async fn tell(store: &Store, own_name: &str, silences: &[Silence]) -> Result<(), StoreError> {
    let append = |facts| Append {
        host: own_name.to_owned(),
        boot: BOOT.to_owned(),
        epoch: None,
        heard_us: now_us(),
        facts,
    };
    // Without facts it only tells where the sequence stands.
    let stored_seq = store.append(append(Vec::new())).await?;
    let facts = (stored_seq + 1..).zip(silences).map(|(seq, silence)| fact(seq, silence));
    store.append(append(facts.collect())).await?;
    Ok(())
}

fn fact(seq: u64, silence: &Silence) -> Arrived {
    let at_us = silence.heard_us;
    let kind =
        Kind::AgentSilent(v1::AgentSilent { host: silence.host.clone(), ended: silence.ended });
    let entity = Entity::of(&kind);
    let fact = v1::Fact { seq, boottime_us: 0, realtime_us: at_us, kind: Some(kind) };
    Arrived { seq, at_us, tolerance_us: 0, fact, entity }
}

#[cfg(test)]
mod tests {
    use tokio::sync::broadcast;

    use super::*;
    use crate::clock::Moment;
    use crate::metrics::Metrics;
    use crate::store::{Greeting, Retention};

    const OWN: &str = "why502-collector";

    async fn told(store: &Store) -> Vec<String> {
        let facts = store.current(OWN).await.unwrap();
        facts.iter().map(|seen| format!("{} {}", seen.id, seen.at_us)).collect()
    }

    #[tokio::test]
    async fn a_silence_of_an_earlier_run_ends_when_the_host_is_back() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), Retention::default(), &Metrics::default()).unwrap();
        let greeting = Greeting { host: "app-1".into(), boot: "b".into(), ..Default::default() };
        store.greet(greeting).await.unwrap();
        let begun = Silence { host: "app-1".into(), ended: false, heard_us: 7 };
        tell(&store, OWN, &[begun]).await.unwrap();

        // Another run.
        let presences = Presences::new(broadcast::Sender::new(8));
        remember(&store, &presences, OWN, Instant::now() + GRACE).await.unwrap();
        assert!(presences.silences(Instant::now()).is_empty(), "it was told already");
        let now = Moment { wall_us: 9, instant: Instant::now() };
        let _stream = presences.claim("app-1", "10.0.0.7:1", now).unwrap();
        let ended = presences.silences(now.instant);
        tell(&store, OWN, &ended).await.unwrap();
        assert_eq!(told(&store).await, ["why502-collector/collector/2 9"]);
    }
}
