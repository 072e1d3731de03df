//! Events as `text/event-stream`.
//!
//! `id:` is the number to resume after, `event:` the kind, `data:` the event as JSON. Between events there are
//! comments, so that both ends notice when the other is gone. Before a stream ends for another reason than the end of
//! its execution, `event: reset` or a comment gives the reason.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderValue;
use axum::http::header::{HeaderName, VARY};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::stream;
use serde_json::json;
use slotline_protocol::ExecutionId;
use tokio_util::sync::CancellationToken;

use crate::follow::{EventFollower, Next, PastEvents};
use crate::hub::{LiveEvent, Subscription, Update};
use crate::limits::Permit;

/// Silence after which a comment is sent.
pub(crate) const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);

pub(crate) const MEDIA_TYPE: &str = "text/event-stream";
pub(crate) const STOPPING: &str = "this executor stops; resume with another";
const AWAY: &str = "the journal is away; resume later";

static ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// A stream of one execution, to its end.
pub(crate) fn of_one<P: PastEvents + Send + Sync + 'static>(
    follower: EventFollower<P>,
    permit: Permit,
    shutdown: CancellationToken,
) -> Response {
    respond(One { follower, is_done: false, shutdown, _permit: permit }, One::next)
}

/// A stream of everything that happens from now on.
pub(crate) fn of_all(subscription: Subscription, permit: Permit, shutdown: CancellationToken) -> Response {
    respond(All { subscription, last: None, is_done: false, shutdown, _permit: permit }, All::next)
}

pub(crate) fn respond<S, F>(state: S, next: impl Fn(S) -> F + Send + 'static) -> Response
where
    S: Send + 'static,
    F: Future<Output = Option<(Event, S)>> + Send + 'static,
{
    let events = stream::unfold((state, next), async |(state, next)| {
        let (event, state) = next(state).await?;
        Some((Ok::<_, Infallible>(event), (state, next)))
    });
    let mut response = Sse::new(events).keep_alive(KeepAlive::new().interval(HEARTBEAT_EVERY)).into_response();
    let headers = response.headers_mut();
    // The same address answers with a page of JSON; and a proxy must not buffer events.
    headers.insert(VARY, HeaderValue::from_static("accept"));
    headers.insert(ACCEL_BUFFERING.clone(), HeaderValue::from_static("no"));
    response
}

struct One<P> {
    follower: EventFollower<P>,
    is_done: bool,
    shutdown: CancellationToken,
    _permit: Permit,
}

impl<P: PastEvents> One<P> {
    async fn next(mut self) -> Option<(Event, Self)> {
        if self.is_done {
            return None;
        }
        let Some(next) = self.shutdown.run_until_cancelled(self.follower.next()).await else {
            self.is_done = true;
            return Some((Event::default().comment(STOPPING), self));
        };
        let event = match next {
            Next::Event(live) => return Some((sse_event(&live, live.event.number.to_string()), self)),
            Next::Over => return None,
            Next::Away => Event::default().comment(AWAY),
            Next::Lagged => {
                let last = self.follower.last();
                reset(&json!({"after": last})).id(last.to_string())
            }
        };
        self.is_done = true;
        Some((event, self))
    }
}

struct All {
    subscription: Subscription,
    /// The last event that was sent.
    last: Option<(ExecutionId, u64)>,
    is_done: bool,
    shutdown: CancellationToken,
    _permit: Permit,
}

impl All {
    async fn next(mut self) -> Option<(Event, Self)> {
        if self.is_done {
            return None;
        }
        loop {
            let event = match self.shutdown.run_until_cancelled(self.subscription.next()).await {
                Some(Update::Event(live)) => {
                    let (execution, number) = (live.event.execution_id, live.event.number);
                    self.last = Some((execution, number));
                    return Some((sse_event(&live, format!("{execution}-{number}")), self));
                }
                // The client sees a gap in the numbers.
                Some(Update::Resync) => continue,
                Some(Update::Lagged) => {
                    let (execution, after) = self.last.unzip();
                    reset(&json!({"execution_id": execution, "after": after}))
                }
                None => Event::default().comment(STOPPING),
            };
            self.is_done = true;
            return Some((event, self));
        }
    }
}

fn sse_event(live: &Arc<LiveEvent>, id: String) -> Event {
    Event::default().id(id).event(live.event.what.kind().as_str()).data(live.json())
}

fn reset(data: &serde_json::Value) -> Event {
    Event::default().event("reset").data(data.to_string())
}
