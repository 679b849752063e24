//! The one view behind CLI, page, HTTP API, gRPC and alerts: whatever they show, they ask here.

use std::sync::Arc;

use tokio::sync::broadcast;
use why502_proto::v1;

use crate::metrics::Metrics;

/// How many changes a slow listener may be behind before it misses some and is told so
/// (`RecvError::Lagged`): two seconds at 2,000 facts/s.
const CHANGES_MAX: usize = 4096;

/// Why a question to the view has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// There is no such incident, host or gateway.
    #[error("there is no {what}")]
    NotFound {
        /// What was asked for.
        what: String,
    },
    /// The question is malformed.
    #[error("{what}")]
    BadRequest {
        /// What is wrong with it, for the person who asked.
        what: String,
    },
    /// The store could not answer.
    #[error("the store cannot answer")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Something that a page or a watcher wants to know at once.
#[derive(Clone, Debug)]
pub enum Change {
    /// An incident was opened, updated or resolved.
    Incident(Arc<v1::Explanation>),
    /// This host came, went, or sees more or less than before.
    Host(String),
    /// A fact was stored.
    Fact(Arc<v1::TimelineEntry>),
}

/// A handle on everything that can be asked. Cheap to clone.
#[derive(Clone, Debug)]
pub struct View {
    metrics: Metrics,
    changes: broadcast::Sender<Change>,
}

impl Default for View {
    fn default() -> Self {
        Self { metrics: Metrics::default(), changes: broadcast::Sender::new(CHANGES_MAX) }
    }
}

impl View {
    /// Incidents, newest first.
    ///
    /// # Errors
    /// [`ViewError::BadRequest`] for an unknown state or a limit above 1,000.
    pub async fn incidents(
        &self,
        _request: v1::ListIncidentsRequest,
    ) -> Result<v1::ListIncidentsResponse, ViewError> {
        Ok(v1::ListIncidentsResponse::default())
    }

    /// One incident by its id.
    ///
    /// # Errors
    /// [`ViewError::NotFound`].
    pub async fn incident(&self, id: &str) -> Result<v1::Explanation, ViewError> {
        Err(ViewError::NotFound { what: format!("incident {id}") })
    }

    /// What a gateway's route shows at a moment, whether there is an incident or not. Where nothing is
    /// wrong, `verdict` is "" and `headline` says so.
    ///
    /// # Errors
    /// [`ViewError::NotFound`] for an unknown gateway, [`ViewError::BadRequest`] for a time that is none.
    pub async fn explain(&self, request: v1::ExplainRequest) -> Result<v1::Explanation, ViewError> {
        Err(ViewError::NotFound { what: format!("gateway {}", request.gateway) })
    }

    /// Facts in order of time.
    ///
    /// # Errors
    /// [`ViewError::BadRequest`] for a time that is none or a limit above 10,000.
    pub async fn timeline(
        &self,
        _request: v1::GetTimelineRequest,
    ) -> Result<v1::GetTimelineResponse, ViewError> {
        Ok(v1::GetTimelineResponse::default())
    }

    /// Every host that was ever heard, by name.
    ///
    /// # Errors
    /// [`ViewError::Store`].
    pub async fn hosts(&self) -> Result<v1::ListHostsResponse, ViewError> {
        Ok(v1::ListHostsResponse::default())
    }

    /// Changes from now on.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// What whoever looks should know about the collector itself: plaintext beyond loopback, a store that
    /// cannot write, a host's wrong clock.
    pub fn warnings(&self) -> Vec<String> {
        Vec::new()
    }

    /// What the collector counts about itself.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}
