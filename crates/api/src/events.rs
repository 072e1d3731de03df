//! `GET /api/v1/executions/{id}/events` and `GET /api/v1/events`: past and live events.
//!
//! One execution's events come as a stream or as pages, both from any number on. A stream ends after the event that
//! settles the execution; resumed there it is answered with 204, so that a browser does not reconnect. The stream of
//! all executions begins now and can't be resumed: gaps show in the numbers, and the missing events are among each
//! execution's own.

use std::time::Duration;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use slotline_protocol::{ActionRef, ExecutionId, Status, duration, http};
use slotline_store::RecordPart;
use tokio::time::Instant;

use crate::error::Error;
use crate::follow::{EventFollower, PastEvents};
use crate::hub::{EventFilter, Subscription, Update};
use crate::input::{self, Accept};
use crate::refusal::ControlError;
use crate::state::SharedApi;
use crate::{limits, stream};

/// The longest time that a page waits for events.
const WAIT_MAX: Duration = Duration::from_secs(60);
const LAST_EVENT_ID: &str = "last-event-id";

pub(crate) async fn of_one(
    State(api): State<SharedApi>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Error> {
    let id = input::execution_id(&id)?;
    match input::accepted(&headers, stream::MEDIA_TYPE) {
        Accept::Named => stream_of_one(&api, id, &uri, &headers).await,
        Accept::Any | Accept::Other => page(&api, id, &uri).await.map(|page| Json(page).into_response()),
    }
}

pub(crate) async fn of_all(State(api): State<SharedApi>, uri: Uri, headers: HeaderMap) -> Result<Response, Error> {
    if let Accept::Other = input::accepted(&headers, stream::MEDIA_TYPE) {
        return Err(Error::NotAcceptable(stream::MEDIA_TYPE));
    }
    let pairs = input::query(&uri, &["action", "status"])?;
    let filter = EventFilter {
        actions: input::many(&pairs, "action", |value| ActionRef::new(value).map_err(|error| error.to_string()))?,
        statuses: input::many(&pairs, "status", |value| value.parse::<Status>().map_err(|error| error.to_string()))?,
    };
    let permit = api.permits.stream()?;
    Ok(stream::of_all(api.hub.subscribe_all(filter), permit, api.shutdown.clone()))
}

async fn stream_of_one(api: &SharedApi, id: ExecutionId, uri: &Uri, headers: &HeaderMap) -> Result<Response, Error> {
    let after = after(&input::query(uri, &["after"])?)?;
    // A browser that reconnects keeps the address it began with.
    let after = last_event_id(headers)?.unwrap_or(after);
    let permit = api.permits.stream()?;
    let follower = EventFollower::open(api.journal.clone(), api.hub.clone(), id, after);
    let follower = limits::in_time(follower).await??.ok_or_else(|| ControlError::unknown_execution(id))?;
    if follower.has_ended() {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    Ok(stream::of_one(follower, permit, api.shutdown.clone()))
}

async fn page(api: &SharedApi, id: ExecutionId, uri: &Uri) -> Result<http::Events, Error> {
    let pairs = input::query(uri, &["after", "limit", "wait"])?;
    let (after, limit, wait) = (after(&pairs)?, input::limit(&pairs)?, wait(&pairs)?);
    let request = EventsRequest { id, after, limit: u32::try_from(limit).expect("the limit is bounded") };
    let RecordPart { events, is_over, .. } = if wait.is_zero() {
        let _permit = api.permits.request()?;
        limits::in_time(request.read(&api.store)).await??
    } else {
        let _permit = api.permits.stream()?;
        request.wait(api, wait).await?
    };
    let next_after = events.last().map_or(after, |event| event.number);
    Ok(http::Events { data: events, next_after, is_over })
}

/// A request for a page of one execution's events.
struct EventsRequest {
    id: ExecutionId,
    after: u64,
    limit: u32,
}

impl EventsRequest {
    async fn read(&self, past: &impl PastEvents) -> Result<RecordPart, Error> {
        let events = past.events(self.id, self.after, self.limit).await?;
        Ok(events.ok_or_else(|| ControlError::unknown_execution(self.id))?)
    }

    /// Reads the page once it has events; returns an empty one after `wait`, or when this executor stops.
    async fn wait(&self, api: &SharedApi, wait: Duration) -> Result<RecordPart, Error> {
        let until = Instant::now() + wait;
        let mut subscription = api.hub.subscribe(self.id);
        loop {
            let events = self.read(&*api.journal).await?;
            if !events.events.is_empty() || events.is_over {
                return Ok(events);
            }
            let changed = tokio::time::timeout_at(until, self.changed(&mut subscription));
            if !matches!(api.shutdown.run_until_cancelled(changed).await, Some(Ok(()))) {
                return Ok(events);
            }
            if subscription.is_cut_off() {
                subscription = api.hub.subscribe(self.id);
            }
        }
    }

    /// Returns when the journal may have new events.
    async fn changed(&self, subscription: &mut Subscription) {
        loop {
            match subscription.next().await {
                Update::Event(live) if live.event.number <= self.after => {}
                Update::Event(_) | Update::Resync | Update::Lagged => return,
            }
        }
    }
}

fn after(pairs: &[(String, String)]) -> Result<u64, Error> {
    input::once(pairs, "after")?.map_or(Ok(0), |text| number(text, "after"))
}

fn last_event_id(headers: &HeaderMap) -> Result<Option<u64>, Error> {
    let Some(value) = headers.get(LAST_EVENT_ID) else { return Ok(None) };
    number(value.to_str().unwrap_or_default(), LAST_EVENT_ID).map(Some)
}

fn number(text: &str, field: &str) -> Result<u64, Error> {
    text.parse().map_err(|_| Error::malformed(field, "expected the number of an event, or 0"))
}

fn wait(pairs: &[(String, String)]) -> Result<Duration, Error> {
    let Some(text) = input::once(pairs, "wait")? else { return Ok(Duration::ZERO) };
    let wait = duration::parse(text).map_err(|message| Error::malformed("wait", message))?;
    if wait > WAIT_MAX {
        return Err(Error::malformed("wait", format!("expected at most {} s", WAIT_MAX.as_secs())));
    }
    Ok(wait)
}
