//! What the collector counts about itself, for `/metrics`.

use std::sync::Arc;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Every number that the collector keeps about itself. Cheap to clone: the numbers are shared.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Arc<Registry>,
    /// Facts on disk since the start.
    pub facts_stored: Counter,
    /// Facts that came again after they were on disk.
    pub facts_repeated: Counter,
    /// Facts of a kind that this version does not know: stored without what they say.
    pub facts_unknown: Counter,
    /// Facts with a time that cannot be: stored with the time of arrival.
    pub facts_misdated: Counter,
    /// Positions that were left out of a host's sequence.
    pub facts_missing: Counter,
    /// Streams that were refused or ended by the collector.
    pub streams_refused: Counter,
    /// Streams that are up.
    pub streams: Gauge,
    /// From the writer's first look at a batch to its commit.
    pub commit_seconds: Histogram,
    /// Size of the database in use.
    pub store_bytes: Gauge,
    /// Facts that retention deleted.
    pub facts_retired: Counter,
    /// Looks at one gateway.
    pub rounds: Counter,
    /// Time that one look took.
    pub round_seconds: Histogram,
    /// Incidents that are open.
    pub incidents_open: Gauge,
    /// Incidents that were ever opened since the start.
    pub incidents_opened: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Arc::new(Registry::default()),
            facts_stored: Counter::default(),
            facts_repeated: Counter::default(),
            facts_unknown: Counter::default(),
            facts_misdated: Counter::default(),
            facts_missing: Counter::default(),
            streams_refused: Counter::default(),
            streams: Gauge::default(),
            commit_seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 14)),
            store_bytes: Gauge::default(),
            facts_retired: Counter::default(),
            rounds: Counter::default(),
            round_seconds: Histogram::new(exponential_buckets(0.000_25, 2.0, 14)),
            incidents_open: Gauge::default(),
            incidents_opened: Counter::default(),
        };
        metrics.registry = Arc::new(metrics.register());
        metrics
    }
}

impl Metrics {
    /// Everything, in the OpenMetrics text format
    /// (`application/openmetrics-text; version=1.0.0; charset=utf-8`).
    pub fn encode(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _infallible = encode(&mut text, &self.registry);
        text
    }

    fn register(&self) -> Registry {
        let mut registry = Registry::with_prefix("why502");
        let counters = [
            ("facts_stored", "Facts on disk since the start", &self.facts_stored),
            ("facts_repeated", "Facts that came again", &self.facts_repeated),
            ("facts_unknown", "Facts of a kind this version does not know", &self.facts_unknown),
            ("facts_misdated", "Facts with a time that cannot be", &self.facts_misdated),
            ("facts_missing", "Positions left out of a host's sequence", &self.facts_missing),
            ("streams_refused", "Streams refused or ended by the collector", &self.streams_refused),
            ("facts_retired", "Facts deleted by retention", &self.facts_retired),
            ("rounds", "Looks at one gateway", &self.rounds),
            ("incidents_opened", "Incidents opened since the start", &self.incidents_opened),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let gauges = [
            ("streams", "Streams that are up", &self.streams),
            ("store_bytes", "Size of the database in use", &self.store_bytes),
            ("incidents_open", "Incidents that are open", &self.incidents_open),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        let histograms = [
            ("commit_seconds", "From a batch to its commit", &self.commit_seconds),
            ("round_seconds", "Time of one look at a gateway", &self.round_seconds),
        ];
        for (name, help, histogram) in histograms {
            registry.register(name, help, histogram.clone());
        }
        registry
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_count_is_in_the_text() {
        let metrics = super::Metrics::default();
        metrics.facts_stored.inc_by(3);
        assert!(metrics.encode().contains("why502_facts_stored_total 3"), "{}", metrics.encode());
    }
}
