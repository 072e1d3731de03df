//! `GET /livez` and `GET /readyz`: for the supervisor of the process, and for a load balancer.
//!
//! Both are open without a token; `/readyz?verbose` needs one. A standby is ready: it serves the API, and takes the
//! lead when it must.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use slotline_protocol::http::{Answer, Part};

use crate::error::Error;
use crate::input;
use crate::state::SharedApi;

/// Whether `uri` needs no token.
pub(crate) fn is_open(uri: &Uri) -> bool {
    matches!(uri.path(), "/livez" | "/readyz") && uri.query().is_none_or(str::is_empty)
}

pub(crate) async fn live() -> Response {
    Json(Answer { data: json!({"live": true}) }).into_response()
}

pub(crate) async fn ready(State(api): State<SharedApi>, uri: Uri) -> Result<Response, Error> {
    let verbose = input::query(&uri, &["verbose"])?.iter().any(|(_, value)| !matches!(value.as_str(), "0" | "false"));
    let health = api.control.health().await;
    let broken: Vec<String> = [("database", &health.database), ("broker", &health.broker)]
        .into_iter()
        .filter(|(_, part)| !part.ok)
        .map(|(name, part)| describe(name, part, verbose))
        .collect();
    if !broken.is_empty() {
        let details = verbose.then(|| json!(health));
        return Err(Error::NotReady { message: broken.join("; "), details });
    }
    let data = if verbose { json!(health) } else { json!({"ready": true, "role": health.role}) };
    Ok(Json(Answer { data }).into_response())
}

fn describe(name: &str, part: &Part, verbose: bool) -> String {
    match &part.detail {
        Some(detail) if verbose => format!("{name}: {detail}"),
        _ => format!("{name} unavailable"),
    }
}
