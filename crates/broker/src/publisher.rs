//! One message on its way out, and the receipt that shows whether the broker has it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::oneshot;

use crate::{Properties, PublishError};

/// How many publications of one session may be unconfirmed; further ones get [`PublishError::Full`].
pub const UNCONFIRMED_MAX: usize = 10_000;
/// How many bytes the unconfirmed publications of one session may have; further ones get [`PublishError::Full`].
pub const UNCONFIRMED_BYTES_MAX: usize = 64 << 20;
/// The most bytes a body may have unless the broker is known to take less: the default of RabbitMQ 4.
pub const BODY_BYTES_MAX: usize = 16 << 20;
/// The most bytes a routing key or the name of an exchange may have.
pub const NAME_BYTES_MAX: usize = 255;
/// How long a confirm may take, the time the broker blocks its publishers not counted. Past it the session is over.
pub const CONFIRM_DEADLINE: Duration = Duration::from_secs(10);

/// One message to publish.
#[derive(Clone, Debug, Default)]
pub struct Publication {
    /// `""` is the default exchange: straight to the queue that the routing key names.
    pub exchange: String,
    pub routing_key: String,
    pub body: Bytes,
    pub properties: Properties,
    /// If no queue takes the message, it fails as [`PublishError::Returned`]; if this is not set, it is dropped and
    /// confirmed.
    pub mandatory: bool,
    /// Survives a restart of the broker.
    pub persistent: bool,
}

impl Publication {
    pub(crate) fn is_sendable(&self, message_bytes_max: usize) -> bool {
        self.body.len() <= message_bytes_max
            && self.exchange.len() <= NAME_BYTES_MAX
            && self.routing_key.len() <= NAME_BYTES_MAX
    }
}

/// Resolves to `Ok` once every queue that should have the message has stored it, and to the reason otherwise.
///
/// Dropping it changes nothing: the publication goes out and its confirm is still watched.
#[must_use = "a publication without its receipt may be lost unnoticed; drop it explicitly where that is meant"]
#[derive(Debug)]
pub struct Receipt(ReceiptState);

#[derive(Debug)]
enum ReceiptState {
    Settled(Result<(), PublishError>),
    Waiting(oneshot::Receiver<Result<(), PublishError>>),
}

impl Receipt {
    pub(crate) fn settled(result: Result<(), PublishError>) -> Self {
        Self(ReceiptState::Settled(result))
    }

    pub(crate) fn waiting() -> (oneshot::Sender<Result<(), PublishError>>, Self) {
        let (sender, receiver) = oneshot::channel();
        (sender, Self(ReceiptState::Waiting(receiver)))
    }
}

impl Future for Receipt {
    type Output = Result<(), PublishError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            ReceiptState::Settled(result) => Poll::Ready(*result),
            // The session drops the sender when it ends.
            ReceiptState::Waiting(receiver) => {
                Pin::new(receiver).poll(cx).map(|result| result.unwrap_or(Err(PublishError::SessionEnded)))
            }
        }
    }
}
