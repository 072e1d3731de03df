//! `/api/v1/actions` and `/api/v1/queues`: what can run, and how its lines stand.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use slotline_protocol::http::{Action, ActionDetail, Answer, Page, QueueStats, Worker};
use slotline_protocol::{ActionRef, Policy};

use crate::control::Refused;
use crate::error::Error;
use crate::{Api, input};

/// How long an answer waits for the leader to say what its workers can do; without that the action is shown all the same.
const WORKERS_WITHIN: Duration = Duration::from_secs(2);
/// Percentiles are taken over this many of the newest executions.
const DURATIONS_OVER: u32 = 1000;

pub(crate) async fn list(State(api): State<Api>, uri: Uri) -> Result<Json<Page<Action>>, Error> {
    let pairs = input::query(&uri, &["limit", "cursor"])?;
    let (limit, cursor) = (input::limit(&pairs)?, after(&pairs)?);
    let mut actions = api.store.actions().await?;
    actions.sort_unstable_by(|a, b| a.action_ref.cmp(&b.action_ref));
    Ok(Json(input::page(actions, limit, cursor, |action| action.action_ref.to_string())))
}

pub(crate) async fn show(
    State(api): State<Api>,
    Path(action_ref): Path<String>,
) -> Result<Json<Answer<ActionDetail>>, Error> {
    let action = find(&api, &input::known_ref(&action_ref)?).await?;
    let capabilities = match tokio::time::timeout(WORKERS_WITHIN, api.control.workers()).await {
        Ok(Ok(workers)) => shared_capabilities(&workers, &action.action_ref),
        Ok(Err(_)) | Err(_) => Vec::new(),
    };
    Ok(Json(Answer { data: ActionDetail { action, capabilities } }))
}

/// What every one of `workers` that serves the action can do with it, in alphabetical order.
fn shared_capabilities(workers: &[Worker], action_ref: &ActionRef) -> Vec<String> {
    workers
        .iter()
        .flat_map(|worker| worker.actions.iter().filter(|served| served.action_ref == *action_ref))
        .map(|served| served.capabilities.iter().cloned().collect::<BTreeSet<_>>())
        .reduce(|shared, other| &shared & &other)
        .map_or_else(Vec::new, |shared| shared.into_iter().collect())
}

pub(crate) async fn put(
    State(api): State<Api>,
    Path(action_ref): Path<String>,
    input::Json(policy): input::Json<Policy>,
) -> Result<Response, Error> {
    let action_ref = ActionRef::new(&action_ref).map_err(|error| Error::invalid("action_ref", error.to_string()))?;
    policy.check().map_err(|error| Error::invalid(error.field, error.message))?;
    let (data, is_new) = api.control.put_action(action_ref, policy).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(Answer { data })).into_response())
}

pub(crate) async fn delete(
    State(api): State<Api>,
    Path(action_ref): Path<String>,
) -> Result<Json<Answer<serde_json::Value>>, Error> {
    let action_ref = input::known_ref(&action_ref)?;
    api.control.delete_action(action_ref.clone()).await?;
    api.known.forget(&action_ref);
    Ok(Json(Answer { data: json!({"action_ref": action_ref, "deleted": true}) }))
}

pub(crate) async fn pause(
    State(api): State<Api>,
    Path(action_ref): Path<String>,
) -> Result<Json<Answer<Action>>, Error> {
    let data = api.control.pause(input::known_ref(&action_ref)?, true).await?;
    Ok(Json(Answer { data }))
}

pub(crate) async fn resume(
    State(api): State<Api>,
    Path(action_ref): Path<String>,
) -> Result<Json<Answer<Action>>, Error> {
    let data = api.control.pause(input::known_ref(&action_ref)?, false).await?;
    Ok(Json(Answer { data }))
}

pub(crate) async fn queue_stats(
    State(api): State<Api>,
    Path(action_ref): Path<String>,
) -> Result<Json<Answer<QueueStats>>, Error> {
    let action_ref = input::known_ref(&action_ref)?;
    let found = api.control.queue_stats(Some(action_ref.clone())).await?;
    let mut data = found.into_iter().next().ok_or_else(|| Refused::unknown_action(&action_ref))?;
    let durations = api.store.durations(data.action_id, DURATIONS_OVER).await?;
    data.wait_seconds = durations.wait;
    data.run_seconds = durations.run;
    Ok(Json(Answer { data }))
}

/// All actions' lines, by name. Their percentiles are null: those take a look at the history of each.
pub(crate) async fn queues(State(api): State<Api>, uri: Uri) -> Result<Json<Page<QueueStats>>, Error> {
    let pairs = input::query(&uri, &["limit", "cursor"])?;
    let (limit, cursor) = (input::limit(&pairs)?, after(&pairs)?);
    let mut stats = api.control.queue_stats(None).await?;
    stats.sort_unstable_by(|a, b| a.action_ref.cmp(&b.action_ref));
    Ok(Json(input::page(stats, limit, cursor, |stats| stats.action_ref.to_string())))
}

async fn find(api: &Api, action_ref: &ActionRef) -> Result<Action, Error> {
    Ok(api.store.action(action_ref).await?.ok_or_else(|| Refused::unknown_action(action_ref))?)
}

/// The cursor of a list of actions is the last one's name.
fn after(pairs: &[(String, String)]) -> Result<Option<&str>, Error> {
    let cursor = input::once(pairs, "cursor")?;
    match cursor.map(ActionRef::new) {
        Some(Err(_)) => Err(Error::malformed("cursor", "no page ended with this cursor")),
        Some(Ok(_)) | None => Ok(cursor),
    }
}
