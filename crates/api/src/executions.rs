//! `/api/v1/executions` and `/api/v1/requests`: submitting, looking, cancelling.
//!
//! An execution's state comes from the journal; why it waits comes from the leader, and is left out without one.

use std::collections::HashMap;
use std::time::Duration;

use axum::extract::{Path, Query, State};
use axum::http::header::{HeaderName, LOCATION};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use slotline_protocol::envelope::{self, MESSAGE_ID_CHARS_MAX};
use slotline_protocol::http::{Answer, CancelBody, Execution, Page, Submit, Submitted};
use slotline_protocol::{ActionRef, ExecutionId, RequestName, Status, requested};
use slotline_store::{Filter, PageRequest};
use tokio::time::Instant;

use crate::auth::Actor;
use crate::control::Submission;
use crate::error::Error;
use crate::input;
use crate::refusal::ControlError;
use crate::state::SharedApi;

/// How long an answer waits for the leader to explain why executions wait.
const EXPLAIN_WITHIN: Duration = Duration::from_secs(2);

/// How long an answer waits for the last events of an execution that has just ended.
const END_WITHIN: Duration = Duration::from_secs(1);
/// The time between two checks whether they have come.
const CHECK_EVERY: Duration = Duration::from_millis(10);

static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
static CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");
static TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

pub(crate) async fn submit(
    State(api): State<SharedApi>,
    headers: HeaderMap,
    input::JsonBody(body): input::JsonBody<Submit>,
) -> Result<Response, Error> {
    let submission = Submission {
        message_id: text_header(&headers, &IDEMPOTENCY_KEY, unquoted)?,
        correlation_id: text_header(&headers, &CORRELATION_ID, str::to_owned)?,
        // A header that is no trace is no reason to refuse the work.
        trace_id: headers.get(&TRACEPARENT).and_then(|value| envelope::trace_id(value.to_str().ok()?)),
        body,
    };
    submission.body.check().map_err(|error| Error::invalid(&error.field, error.message))?;
    api.control.takes_requests()?;
    require_action(&api, &submission.body.action_ref).await?;
    let data = api.control.submit(submission).await?;
    let (status, path) = match data.execution_id {
        Some(id) => (StatusCode::CREATED, Some(format!("/api/v1/executions/{id}"))),
        None => (StatusCode::ACCEPTED, None),
    };
    let mut response = (status, Json(Answer { data })).into_response();
    if let Some(location) = path.and_then(|path| HeaderValue::try_from(path).ok()) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(response)
}

/// Refuses a request without a known action before it is on the broker, where it could only become a dead letter.
async fn require_action(api: &SharedApi, action_ref: &ActionRef) -> Result<(), Error> {
    if !api.known_actions.contains(action_ref) {
        api.store.action(action_ref).await?.ok_or_else(|| ControlError::unknown_action(action_ref))?;
        api.known_actions.remember(action_ref);
    }
    Ok(())
}

/// The text of a structured string (RFC 9651), as which some clients send their keys; any other text as it is.
fn unquoted(text: &str) -> String {
    let Some(inner) = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) else { return text.to_owned() };
    inner.replace("\\\"", "\"").replace("\\\\", "\\")
}

fn text_header(headers: &HeaderMap, name: &HeaderName, read: impl Fn(&str) -> String) -> Result<Option<String>, Error> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    let text = read(std::str::from_utf8(value.as_bytes()).unwrap_or_default());
    let is_valid = values.next().is_none() && (1..=MESSAGE_ID_CHARS_MAX).contains(&text.chars().count());
    if is_valid {
        Ok(Some(text))
    } else {
        Err(Error::malformed(name.as_str(), format!("expected once, with 1 to {MESSAGE_ID_CHARS_MAX} characters")))
    }
}

pub(crate) async fn show(
    State(api): State<SharedApi>,
    Path(id): Path<String>,
) -> Result<Json<Answer<Execution>>, Error> {
    let id = input::execution_id(&id)?;
    let mut data = whole(&api, id).await?.ok_or_else(|| ControlError::unknown_execution(id))?;
    explain(&api, std::slice::from_mut(&mut data)).await;
    Ok(Json(Answer { data }))
}

/// The execution. If it has just ended, its last events may still be on their way: this waits for them, up to
/// [`END_WITHIN`].
async fn whole(api: &SharedApi, id: ExecutionId) -> Result<Option<Execution>, Error> {
    let until = Instant::now() + END_WITHIN;
    loop {
        let found = api.store.execution(id).await?;
        if !found.as_ref().is_some_and(|execution| execution.awaits_events) || Instant::now() >= until {
            return Ok(found);
        }
        tokio::time::sleep(CHECK_EVERY).await;
    }
}

pub(crate) async fn list(State(api): State<SharedApi>, uri: Uri) -> Result<Json<Page<Execution>>, Error> {
    let pairs = input::query(&uri, &["action", "status", "key", "limit", "cursor"])?;
    let action_ref = input::once(&pairs, "action")?
        .map(ActionRef::new)
        .transpose()
        .map_err(|error| Error::malformed("action", error.to_string()))?;
    let statuses = input::many(&pairs, "status", |value| value.parse::<Status>().map_err(|error| error.to_string()))?;
    let concurrency_key = input::once(&pairs, "key")?.map(str::to_owned);
    if let Some(key) = &concurrency_key {
        requested::check_key(key).map_err(|message| Error::malformed("key", message))?;
    }
    let filter = Filter { action_ref, statuses, concurrency_key };
    let page = PageRequest {
        limit: u32::try_from(input::limit(&pairs)?).expect("the limit is bounded"),
        cursor: input::once(&pairs, "cursor")?.map(str::to_owned),
    };
    let mut page = api.store.executions(&filter, page).await?;
    explain(&api, &mut page.data).await;
    Ok(Json(page))
}

pub(crate) async fn cancel(
    State(api): State<SharedApi>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
    uri: Uri,
    input::OptionalJsonBody(body): input::OptionalJsonBody<CancelBody>,
) -> Result<Json<Answer<serde_json::Value>>, Error> {
    let id = input::execution_id(&id)?;
    let status = api.control.cancel(id, actor.by(input::reason_of(&uri, body.reason)?)).await?;
    Ok(Json(Answer { data: serde_json::json!({"execution_id": id, "status": status}) }))
}

/// The user that published the request; `None` for a publisher that did not set one.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct RequestUser {
    user_id: Option<String>,
}

/// The execution of a submission that was answered with 202, or of a request that a user of the broker published.
pub(crate) async fn request(
    State(api): State<SharedApi>,
    Path(message_id): Path<String>,
    Query(RequestUser { user_id }): Query<RequestUser>,
) -> Result<Json<Answer<Submitted>>, Error> {
    let unknown = || {
        let message =
            format!("the journal has no request {message_id:?}: it still waits, was refused, or was forgotten");
        ControlError::not_found("unknown_request", message)
    };
    // No request can have such an id, and not every database takes it in a query.
    let user = user_id.as_deref().filter(|user| !user.is_empty());
    let is_too_long = |text: &str| text.contains('\0') || text.chars().count() > MESSAGE_ID_CHARS_MAX;
    if is_too_long(&message_id) || user.is_some_and(is_too_long) {
        return Err(unknown().into());
    }
    let id = api.store.find_request(&RequestName::new(user, &message_id)).await?.ok_or_else(unknown)?;
    let mut execution = api.store.execution(id).await?.ok_or_else(unknown)?;
    explain(&api, std::slice::from_mut(&mut execution)).await;
    let Execution { status, position, .. } = execution;
    Ok(Json(Answer { data: Submitted { message_id, execution_id: Some(id), status, position } }))
}

/// Fills in why executions wait.
async fn explain(api: &SharedApi, executions: &mut [Execution]) {
    let ids: Vec<_> =
        executions.iter().filter(|execution| execution.status == Status::Queued).map(|it| it.execution_id).collect();
    if ids.is_empty() {
        return;
    }
    let Ok(Ok(waiting)) = tokio::time::timeout(EXPLAIN_WITHIN, api.control.explain(ids)).await else { return };
    let mut waiting: HashMap<_, _> = waiting.into_iter().collect();
    for execution in executions {
        execution.waiting = waiting.remove(&execution.execution_id);
        execution.position = execution.waiting.as_ref().map(|waiting| waiting.position);
    }
}
