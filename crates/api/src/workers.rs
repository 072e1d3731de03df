//! `GET /api/v1/workers`: the workers, as the leader sees them.

use axum::Json;
use axum::extract::State;
use axum::http::Uri;
use slotline_protocol::http::{Page, Worker};

use crate::error::Error;
use crate::input;
use crate::state::SharedApi;

pub(crate) async fn list(State(api): State<SharedApi>, uri: Uri) -> Result<Json<Page<Worker>>, Error> {
    let pairs = input::query(&uri, &["limit", "cursor"])?;
    let (limit, cursor) = (input::limit(&pairs)?, input::once(&pairs, "cursor")?);
    let mut workers = api.control.workers().await?;
    workers.sort_unstable_by_key(name);
    Ok(Json(input::page(workers, limit, cursor, name)))
}

/// A worker past its fence is there twice for a while, under one name.
fn name(worker: &Worker) -> String {
    format!("{} {}", worker.worker, worker.incarnation)
}
