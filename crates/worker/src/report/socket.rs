//! The socket of one attempt of a command: the command writes a report on each line, and the worker reads them.
//!
//! Read on a thread of its own, so that a flood of reports does not hold up the worker's loop, and a handler that
//! blocks its thread does not hold up the reports. The channel is closed with the attempt; what was written before that
//! is taken. Not here: the writing end (`progress`), and what a line may contain (`check`).

mod lines;

use slotline_protocol::chain;
use std::os::unix::net;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use rustix::fd::AsFd;
use rustix::net::{RecvFlags, SocketFlags};
use tokio::io::AsyncReadExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::feed::AttemptFeed;
use lines::Lines;

/// Callers that are read from at once; further ones wait for their turn in the socket's queue.
const CALLERS_MAX: usize = 32;
const READ_BYTES: usize = 16 << 10;
/// How long the last lines may take to be read. A process that could write after that does not belong to the attempt.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// Between two tries to take a caller while the system has no room for one.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// Closed when it is dropped; its file is removed with the other files of the attempt.
pub(crate) struct ReportSocket {
    closing: CancellationToken,
    listening: JoinHandle<()>,
}

impl ReportSocket {
    /// Reads what callers write to a bound, non-blocking listener, for the attempt.
    pub(crate) fn open(listener: net::UnixListener, feed: Arc<AttemptFeed>, channels: &runtime::Handle) -> Self {
        let closing = CancellationToken::new();
        let listening = channels.spawn(listen(listener, feed, closing.clone()));
        Self { closing, listening }
    }

    /// Takes what was written so far, and nothing more.
    pub(crate) async fn close(mut self) {
        self.closing.cancel();
        // Past the wait, either a process outside the attempt writes, or the machine is too busy to wait for.
        let _ = tokio::time::timeout(CLOSE_WAIT, &mut self.listening).await;
    }
}

impl Drop for ReportSocket {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn listen(listener: net::UnixListener, feed: Arc<AttemptFeed>, closing: CancellationToken) {
    let Ok(listener) = UnixListener::from_std(listener)
        .inspect_err(|error| tracing::warn!(execution.id = %feed.key.0, error = %chain(&error), "no progress"))
    else {
        return;
    };
    let mut callers = FuturesUnordered::new();
    loop {
        tokio::select! {
            () = closing.cancelled() => break,
            called = listener.accept(), if callers.len() < CALLERS_MAX => match called {
                Ok((stream, _)) => callers.push(hear(stream, &feed, &closing)),
                Err(_) => tokio::time::sleep(TRY_AGAIN).await,
            },
            Some(()) = callers.next(), if !callers.is_empty() => {}
        }
    }
    while callers.next().await.is_some() {}
    // Callers that were not accepted yet; asked of the system itself, which knows them before the runtime does.
    while let Ok(caller) = rustix::net::accept_with(&listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
        let mut lines = Lines::default();
        take_rest(&caller, &mut lines, &feed).await;
    }
}

/// Reads from one caller to its end, or until the attempt is over.
async fn hear(mut stream: UnixStream, feed: &Arc<AttemptFeed>, closing: &CancellationToken) {
    let mut lines = Lines::default();
    let mut buffer = vec![0; READ_BYTES].into_boxed_slice();
    loop {
        let read = tokio::select! {
            biased;
            () = closing.cancelled() => return take_rest(&stream, &mut lines, feed).await,
            read = stream.read(&mut buffer) => read,
        };
        match read {
            Ok(0) | Err(_) => return lines.finish(feed),
            Ok(read) => lines.take(&buffer[..read], feed),
        }
    }
}

/// Takes what has arrived, without waiting for more.
async fn take_rest(stream: impl AsFd, lines: &mut Lines, feed: &Arc<AttemptFeed>) {
    let mut buffer = vec![0; READ_BYTES].into_boxed_slice();
    while let Ok((read @ 1.., _)) = rustix::net::recv(&stream, &mut *buffer, RecvFlags::DONTWAIT) {
        lines.take(&buffer[..read], feed);
        tokio::task::yield_now().await;
    }
    lines.finish(feed);
}
