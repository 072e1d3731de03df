//! Handlers: attempts that run inside the worker's process, each as a task on a runtime that only handlers have.
//!
//! A panic is a failure with its message and backtrace. A handler that blocks its thread delays others, but neither
//! heartbeats nor commands.

pub(crate) mod context;
pub(crate) mod error;
pub(crate) mod panic;

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;

use futures::FutureExt;
use serde::Serialize;
use serde_json::value::to_raw_value;
use slotline_protocol::message::Failure;
use tokio::runtime;
use tokio::task::AbortHandle;
use tokio_util::sync::CancellationToken;

use crate::clock;
use crate::duty::{Ending, JsonText, Start, limit};
use crate::report::feed::AttemptFeed;
use context::Context;
use error::HandlerError;

/// A handler as the worker keeps it: its result is JSON by then.
pub(crate) type Handler = Arc<dyn Fn(Context) -> BoxFuture + Send + Sync>;

type BoxFuture = Pin<Box<dyn Future<Output = Result<JsonText, Failure>> + Send>>;

/// Boxes an async function.
pub(crate) fn boxed<H, F, R>(handler: H) -> Handler
where
    H: Fn(Context) -> F + Send + Sync + 'static,
    F: Future<Output = Result<R, HandlerError>> + Send + 'static,
    R: Serialize,
{
    Arc::new(move |context| {
        let attempt = handler(context);
        Box::pin(async move {
            let result = attempt.await.map_err(HandlerError::into_failure)?;
            let json = to_raw_value(&result)
                .map_err(|error| Failure::new("handler_error", format!("the result is no JSON: {error}")))?;
            limit::result(JsonText(json.into()))
        })
    })
}

/// The loop's hold on a running handler.
#[derive(Debug)]
pub(crate) struct RunningHandler {
    token: CancellationToken,
    task: AbortHandle,
}

impl RunningHandler {
    pub(crate) fn interrupt(&self) {
        self.token.cancel();
    }

    /// Drops the handler at its next await; one that never awaits ends with the process.
    pub(crate) fn kill(&self) {
        self.token.cancel();
        self.task.abort();
    }
}

/// Starts a handler; its feed gets the start and the end.
pub(crate) fn start(
    handlers: &runtime::Handle,
    handler: &Handler,
    start: Start,
    feed: Arc<AttemptFeed>,
) -> RunningHandler {
    let token = CancellationToken::new();
    let context = Context::new(start, token.clone(), feed.clone());
    let handler = handler.clone();
    // Dropped when the task is, even before its first poll: then, and only then, nothing of the attempt is left.
    let last_word = LastWord { feed: Some(feed), ending: None };
    let task = handlers.spawn(async move {
        let mut last_word = last_word;
        if let Some(feed) = &last_word.feed {
            feed.started(clock::now());
        }
        let caught = panic::Caught::default();
        // The call itself may panic, before there is a future.
        let attempt = AssertUnwindSafe(async move { handler(context).await }).catch_unwind();
        let result = match panic::scope(caught.clone(), attempt).await {
            Ok(result) => result,
            Err(payload) => Err(caught.failure(payload.as_ref())),
        };
        last_word.ending = Some(result);
    });
    RunningHandler { token, task: task.abort_handle() }
}

struct LastWord {
    feed: Option<Arc<AttemptFeed>>,
    ending: Option<Result<JsonText, Failure>>,
}

impl Drop for LastWord {
    fn drop(&mut self) {
        let result = self.ending.take().unwrap_or_else(|| Err(Failure::new("cancelled", "the handler was aborted")));
        if let Some(feed) = self.feed.take() {
            feed.ended(Ending {
                result: result.map_err(limit::failure),
                left: None,
                return_code: None,
                ended_at: clock::now().wall,
            });
        }
    }
}
