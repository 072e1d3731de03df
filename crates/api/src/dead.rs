//! `/api/v1/dead`: messages that were put aside, to look at, to replay and to drop.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::Uri;
use serde_json::{Value, json};
use slotline_protocol::http::{Answer, DeadLetter, Page};

use crate::error::Error;
use crate::{Api, input};

/// The oldest ones. There is no cursor: the way on is to replay or drop.
pub(crate) async fn list(State(api): State<Api>, uri: Uri) -> Result<Json<Page<DeadLetter>>, Error> {
    let pairs = input::query(&uri, &["limit"])?;
    let data = api.control.dead_letters(input::limit(&pairs)?).await?;
    Ok(Json(Page { data, next_cursor: None }))
}

pub(crate) async fn show(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<Answer<DeadLetter>>, Error> {
    let data = api.control.dead_letter(id).await?;
    Ok(Json(Answer { data }))
}

pub(crate) async fn replay(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<Answer<Value>>, Error> {
    api.control.replay_dead(id.clone()).await?;
    Ok(Json(Answer { data: json!({"id": id, "replayed": true}) }))
}

pub(crate) async fn discard(State(api): State<Api>, Path(id): Path<String>) -> Result<Json<Answer<Value>>, Error> {
    api.control.drop_dead(id.clone()).await?;
    Ok(Json(Answer { data: json!({"id": id, "dropped": true}) }))
}
