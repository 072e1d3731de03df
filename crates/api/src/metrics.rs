//! `GET /metrics`: what the executor counts, in the text format of OpenMetrics; and what it counts of HTTP itself.

use std::time::Instant;

use axum::extract::{MatchedPath, Request, State};
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::error::Error;
use crate::state::SharedApi;

/// The media type of OpenMetrics 1.0.0.
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
/// The route of what has none.
const UNMATCHED: &str = "unmatched";

pub(crate) async fn expose(State(api): State<SharedApi>) -> Result<Response, Error> {
    let text = api.control.metrics(api.permits.open_streams()).await?;
    Ok(([(CONTENT_TYPE, OPEN_METRICS)], text).into_response())
}

/// Counts the request by its route, never by its path, which has no end of values.
pub(crate) async fn count(State(api): State<SharedApi>, request: Request, next: Next) -> Response {
    let began = Instant::now();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let response = next.run(request).await;
    let route = route.as_ref().map_or(UNMATCHED, MatchedPath::as_str);
    api.control.answered(route, response.status().as_u16(), began.elapsed());
    response
}
