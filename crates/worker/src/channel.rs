//! Where one attempt of a command is listened to: a socket of its own, a report on each line.
//!
//! Read on a thread of its own, so that neither a flood of reports holds up the worker's loop nor a handler that blocks
//! its thread the reports. Gone when the attempt is; what was written before that is taken. Not here: the writing end
//! (`progress`), and what a line may say (`check`).

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

use crate::feed::Feed;
use lines::Lines;

/// Callers listened to at once; further ones wait for their turn in the socket's queue.
const CALLERS_MAX: usize = 32;
const READ_BYTES: usize = 16 << 10;
/// How long the last lines may take to be read. Whoever could still write is none of the attempt's processes.
const CLOSE_WAIT: Duration = Duration::from_secs(1);
/// Between two tries to take a caller while the system has no room for one.
const TRY_AGAIN: Duration = Duration::from_millis(50);

/// Ends when it is dropped; its file is removed with the other files of the attempt.
pub(crate) struct Channel {
    closing: CancellationToken,
    listening: JoinHandle<()>,
}

impl Channel {
    /// Listens with what was bound, non-blocking, for the attempt.
    pub(crate) fn open(listener: net::UnixListener, feed: Arc<Feed>, channels: &runtime::Handle) -> Self {
        let closing = CancellationToken::new();
        let listening = channels.spawn(listen(listener, feed, closing.clone()));
        Self { closing, listening }
    }

    /// Takes what was written so far, and nothing more.
    pub(crate) async fn close(mut self) {
        self.closing.cancel();
        // Past the wait somebody else writes, or the machine is too busy to wait for.
        let _ = tokio::time::timeout(CLOSE_WAIT, &mut self.listening).await;
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn listen(listener: net::UnixListener, feed: Arc<Feed>, closing: CancellationToken) {
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
    // Those who called and were not heard yet; asked of the system itself, which knows before the runtime does.
    while let Ok(caller) = rustix::net::accept_with(&listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
        let mut lines = Lines::default();
        take_rest(&caller, &mut lines, &feed).await;
    }
}

/// Hears one caller to its end, or until the attempt is over.
async fn hear(mut stream: UnixStream, feed: &Arc<Feed>, closing: &CancellationToken) {
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

/// Takes what is there, without waiting for more.
async fn take_rest(stream: impl AsFd, lines: &mut Lines, feed: &Arc<Feed>) {
    let mut buffer = vec![0; READ_BYTES].into_boxed_slice();
    while let Ok((read @ 1.., _)) = rustix::net::recv(&stream, &mut *buffer, RecvFlags::DONTWAIT) {
        lines.take(&buffer[..read], feed);
        tokio::task::yield_now().await;
    }
    lines.finish(feed);
}
