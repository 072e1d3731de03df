//! `/api/v1/actions` and `/api/v1/queues`: actions, and the state of their lines.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::header::ETAG;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::json;
use serde_json::value::RawValue;
use slotline_protocol::change::{APPLY_ACTIONS_MAX, Applied, ApplyBody, OverrideBody, ReasonBody};
use slotline_protocol::http::{Action, ActionDetail, Answer, Page, QueueStats, Worker};
use slotline_protocol::{ActionRef, By, Policy, parameters};

use crate::auth::Actor;
use crate::condition::Condition;
use crate::error::Error;
use crate::input;
use crate::refusal::ControlError;
use crate::state::SharedApi;

/// How long an answer waits for the leader to list its workers; without them the action is shown all the same.
const WORKERS_WITHIN: Duration = Duration::from_secs(2);
/// Percentiles are taken over this many of the newest executions.
const DURATIONS_OVER: u32 = 1000;

pub(crate) async fn list(State(api): State<SharedApi>, uri: Uri) -> Result<Json<Page<Action>>, Error> {
    let pairs = input::query(&uri, &["limit", "cursor"])?;
    let (limit, after) = (input::limit(&pairs)?, after(&pairs)?);
    let most = u32::try_from(limit + 1).expect("the limit is bounded");
    let actions = api.store.actions_after(after.as_ref(), most).await?;
    Ok(Json(input::cut(actions, limit, |action| action.action_ref.to_string())))
}

pub(crate) async fn show(State(api): State<SharedApi>, Path(action_ref): Path<String>) -> Result<Response, Error> {
    let action = find(&api, &input::known_ref(&action_ref)?).await?;
    let capabilities = match tokio::time::timeout(WORKERS_WITHIN, api.control.workers()).await {
        Ok(Ok(workers)) => shared_capabilities(&workers, &action.action_ref),
        Ok(Err(_)) | Err(_) => Vec::new(),
    };
    let etag = action.policy.etag();
    Ok(tagged(&etag, Json(Answer { data: ActionDetail { action, capabilities } })))
}

/// Adds the ETag that `If-Match` is compared with.
fn tagged(etag: &str, answer: impl IntoResponse) -> Response {
    let mut response = answer.into_response();
    if let Ok(etag) = HeaderValue::from_str(etag) {
        response.headers_mut().insert(ETAG, etag);
    }
    response
}

/// The capabilities that all of `workers` that serve the action share, in alphabetical order.
fn shared_capabilities(workers: &[Worker], action_ref: &ActionRef) -> Vec<String> {
    workers
        .iter()
        .flat_map(|worker| worker.actions.iter().filter(|served| served.action_ref == *action_ref))
        .map(|served| served.capabilities.iter().cloned().collect::<BTreeSet<_>>())
        .reduce(|shared, other| &shared & &other)
        .map_or_else(Vec::new, |shared| shared.into_iter().collect())
}

pub(crate) async fn put(
    State(api): State<SharedApi>,
    Extension(actor): Extension<Actor>,
    Path(action_ref): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    input::JsonBody(policy): input::JsonBody<Policy>,
) -> Result<Response, Error> {
    let action_ref = ActionRef::new(&action_ref).map_err(|error| Error::invalid("action_ref", error.to_string()))?;
    let (condition, by) = (Condition::read(&headers)?, actor.by(input::reason(&uri)?));
    policy.check().map_err(|error| Error::invalid(error.field, error.message))?;
    let (data, is_new) = api.control.put_action(action_ref, policy, condition, by).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok(tagged(&data.policy.etag(), (status, Json(Answer { data: &data }))))
}

/// A merge patch (RFC 7396) of the policy.
pub(crate) async fn patch(
    State(api): State<SharedApi>,
    Extension(actor): Extension<Actor>,
    Path(action_ref): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    input::JsonBody(patch): input::JsonBody<Box<RawValue>>,
) -> Result<Response, Error> {
    let (condition, by) = (Condition::read(&headers)?, actor.by(input::reason(&uri)?));
    // A member that is there twice would be read as the last of the two.
    parameters::check(patch.get()).map_err(|invalid| Error::invalid(&field(&invalid.pointer), invalid.message))?;
    let patch = serde_json::from_str(patch.get()).map_err(|error| Error::malformed("body", error.to_string()))?;
    let data = api.control.patch_action(input::known_ref(&action_ref)?, patch, condition, by).await?;
    Ok(tagged(&data.policy.etag(), Json(Answer { data: &data })))
}

/// A JSON pointer as refusals spell fields.
fn field(pointer: &str) -> String {
    let path = pointer.trim_start_matches('/').replace('/', ".");
    if path.is_empty() { "body".to_owned() } else { path }
}

/// All policies of a file, or none.
pub(crate) async fn apply(
    State(api): State<SharedApi>,
    Extension(actor): Extension<Actor>,
    uri: Uri,
    input::JsonBody(body): input::JsonBody<ApplyBody>,
) -> Result<Json<Answer<Vec<Applied>>>, Error> {
    let ApplyBody { actions, dry_run, reason } = body;
    let by = actor.by(input::reason_of(&uri, reason)?);
    if actions.len() > APPLY_ACTIONS_MAX {
        let message = format!("{} actions: expected at most {APPLY_ACTIONS_MAX}; apply several files", actions.len());
        return Err(Error::invalid("actions", message));
    }
    let mut names = BTreeSet::new();
    for (index, declared) in actions.iter().enumerate() {
        if !names.insert(&declared.action_ref) {
            let message = format!("{} is there twice", declared.action_ref);
            return Err(Error::invalid(&format!("actions[{index}].action_ref"), message));
        }
        declared.policy.check().map_err(|error| {
            let message = format!("{}: {}", declared.action_ref, error.message);
            Error::invalid(&format!("actions[{index}].policy.{}", error.field), message)
        })?;
    }
    Ok(Json(Answer { data: api.control.apply(actions, dry_run, by).await? }))
}

pub(crate) async fn delete(
    State(api): State<SharedApi>,
    Extension(actor): Extension<Actor>,
    Path(action_ref): Path<String>,
    uri: Uri,
) -> Result<Json<Answer<serde_json::Value>>, Error> {
    let action_ref = input::known_ref(&action_ref)?;
    api.control.delete_action(action_ref.clone(), actor.by(input::reason(&uri)?)).await?;
    api.known_actions.forget(&action_ref);
    Ok(Json(Answer { data: json!({"action_ref": action_ref, "deleted": true}) }))
}

pub(crate) async fn pause(
    State(api): State<SharedApi>,
    Extension(actor): Extension<Actor>,
    Path(action_ref): Path<String>,
    uri: Uri,
    input::OptionalJsonBody(body): input::OptionalJsonBody<ReasonBody>,
) -> Result<Json<Answer<Action>>, Error> {
    let by = actor.by(input::reason_of(&uri, body.reason)?);
    set_paused(&api, &action_ref, true, by).await
}

pub(crate) async fn resume(
    State(api): State<SharedApi>,
    Extension(actor): Extension<Actor>,
    Path(action_ref): Path<String>,
    uri: Uri,
    input::OptionalJsonBody(body): input::OptionalJsonBody<ReasonBody>,
) -> Result<Json<Answer<Action>>, Error> {
    let by = actor.by(input::reason_of(&uri, body.reason)?);
    set_paused(&api, &action_ref, false, by).await
}

async fn set_paused(api: &SharedApi, action_ref: &str, paused: bool, by: By) -> Result<Json<Answer<Action>>, Error> {
    let data = api.control.pause(input::known_ref(action_ref)?, paused, by).await?;
    Ok(Json(Answer { data }))
}

pub(crate) async fn override_limit(
    State(api): State<SharedApi>,
    Extension(actor): Extension<Actor>,
    Path(action_ref): Path<String>,
    uri: Uri,
    input::JsonBody(body): input::JsonBody<OverrideBody>,
) -> Result<Json<Answer<Action>>, Error> {
    body.check().map_err(|(field, message)| Error::invalid(field, message))?;
    let OverrideBody { limit, duration, reason } = body;
    let by = actor.by(input::reason_of(&uri, reason)?);
    let data = api.control.override_limit(input::known_ref(&action_ref)?, limit, duration, by).await?;
    Ok(Json(Answer { data }))
}

pub(crate) async fn clear_override(
    State(api): State<SharedApi>,
    Extension(actor): Extension<Actor>,
    Path(action_ref): Path<String>,
    uri: Uri,
) -> Result<Json<Answer<Action>>, Error> {
    let by = actor.by(input::reason(&uri)?);
    let data = api.control.clear_override(input::known_ref(&action_ref)?, by).await?;
    Ok(Json(Answer { data }))
}

pub(crate) async fn queue_stats(
    State(api): State<SharedApi>,
    Path(action_ref): Path<String>,
) -> Result<Json<Answer<QueueStats>>, Error> {
    let action_ref = input::known_ref(&action_ref)?;
    let found = api.control.queue_stats(action_ref.clone()).await?;
    let mut data = found.ok_or_else(|| ControlError::unknown_action(&action_ref))?;
    let durations = api.store.durations(data.action_id, DURATIONS_OVER).await?;
    data.wait_seconds = durations.wait;
    data.run_seconds = durations.run;
    Ok(Json(Answer { data }))
}

/// A page of actions' lines, by name, as the leader sees them; without percentiles, which need the history of each action,
/// and without keys.
pub(crate) async fn queues(State(api): State<SharedApi>, uri: Uri) -> Result<Json<Page<QueueStats>>, Error> {
    let pairs = input::query(&uri, &["limit", "cursor"])?;
    let (limit, after) = (input::limit(&pairs)?, after(&pairs)?);
    let stats = api.control.queues(after, limit + 1).await?;
    Ok(Json(input::cut(stats, limit, |stats| stats.action_ref.to_string())))
}

async fn find(api: &SharedApi, action_ref: &ActionRef) -> Result<Action, Error> {
    Ok(api.store.action(action_ref).await?.ok_or_else(|| ControlError::unknown_action(action_ref))?)
}

/// The cursor of a list of actions is the last one's name.
fn after(pairs: &[(String, String)]) -> Result<Option<ActionRef>, Error> {
    let cursor = input::once(pairs, "cursor")?.map(ActionRef::new).transpose();
    cursor.map_err(|_| Error::malformed("cursor", "no page ended with this cursor"))
}
