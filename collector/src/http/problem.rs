//! What went wrong with a request, as a problem document (RFC 9457): what, and what to do about it.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::chain::chain;
use crate::view::ViewError;

/// An answer that is an error. `hint` says what to do; it is never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) status: StatusCode,
    pub(super) detail: String,
    pub(super) hint: String,
}

impl Problem {
    pub(super) fn bad_request(detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, detail: detail.into(), hint: hint.into() }
    }

    pub(super) fn not_found(what: &str, hint: impl Into<String>) -> Self {
        let detail = format!("there is no {what}");
        Self { status: StatusCode::NOT_FOUND, detail, hint: hint.into() }
    }

    pub(super) fn title(&self) -> &'static str {
        self.status.canonical_reason().unwrap_or("Error")
    }

    /// The document; `type` is about:blank, so `title` is the status in words.
    pub(super) fn to_json(&self) -> serde_json::Value {
        serde_json::json!({
            "type": "about:blank",
            "title": self.title(),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "hint": self.hint,
        })
    }
}

impl From<ViewError> for Problem {
    fn from(error: ViewError) -> Self {
        let detail = error.to_string();
        match error {
            ViewError::NotFound { .. } => Self {
                status: StatusCode::NOT_FOUND,
                detail,
                hint: "see what there is: why502 incidents --all, why502 hosts, or the page".into(),
            },
            ViewError::BadRequest { .. } => {
                Self::bad_request(detail, "see /openapi.json for what a request may say")
            }
            ViewError::Store(source) => {
                tracing::warn!(error = %chain(source.as_ref()), "the store cannot answer");
                Self {
                    status: StatusCode::SERVICE_UNAVAILABLE,
                    detail,
                    hint: "the collector's log has the reason; check the disk of its state \
                           directory"
                        .into(),
                }
            }
        }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = self.to_json().to_string();
        let kind = HeaderValue::from_static("application/problem+json");
        (self.status, [(header::CONTENT_TYPE, kind)], body).into_response()
    }
}
