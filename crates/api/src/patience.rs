//! A connection that is given up once its client takes nothing for too long.
//!
//! A stream's buffer is bounded, but one who never reads would hold his connection, and a place among the streams, for
//! ever. TCP itself keeps a peer that acknowledges and takes nothing.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

/// How long a client may take nothing of what waits for it.
pub(crate) const TAKE_WITHIN: Duration = Duration::from_secs(60);
/// The same once shutdown is asked for, which waits for all answers.
pub(crate) const TAKE_WITHIN_AT_SHUTDOWN: Duration = Duration::from_secs(1);

/// Reads and writes as `S` does; a write that waits for longer than [`TAKE_WITHIN`] fails.
pub(crate) struct Patient<S> {
    inner: S,
    shutdown: CancellationToken,
    /// Runs while a write waits.
    patience: Option<BoxFuture<'static, ()>>,
}

impl<S> Patient<S> {
    pub(crate) fn new(inner: S, shutdown: CancellationToken) -> Self {
        Self { inner, shutdown, patience: None }
    }

    fn judge(&mut self, written: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.patience = None;
            return written;
        }
        let patience = self.patience.get_or_insert_with(|| exhaust(self.shutdown.clone()).boxed());
        ready!(patience.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

/// Returns when patience is at its end.
async fn exhaust(shutdown: CancellationToken) {
    let sooner = async {
        shutdown.cancelled().await;
        tokio::time::sleep(TAKE_WITHIN_AT_SHUTDOWN).await;
    };
    // Whichever comes first.
    let _ = tokio::time::timeout(TAKE_WITHIN, sooner).await;
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.judge(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.judge(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_for_too_long_is_given_up_and_who_takes_a_little_is_not() {
        let (ours, mut theirs) = tokio::io::duplex(8);
        let mut ours = Patient::new(ours, CancellationToken::new());
        let mut taken = [0; 8];
        ours.write_all(&[0; 8]).await.expect("there is room");
        for _ in 0..5 {
            let slow = async {
                tokio::time::sleep(TAKE_WITHIN - Duration::from_secs(1)).await;
                theirs.read_exact(&mut taken).await
            };
            let (written, read) = tokio::join!(ours.write_all(&[0; 8]), slow);
            assert!(written.is_ok() && read.is_ok(), "{written:?} {read:?}");
        }
        let begun = Instant::now();
        let error = ours.write_all(&[0; 8]).await.expect_err("nobody reads");
        assert_eq!((error.kind(), begun.elapsed().as_secs()), (io::ErrorKind::TimedOut, TAKE_WITHIN.as_secs()));
    }
    #[tokio::test(start_paused = true)]
    async fn at_shutdown_there_is_less_patience() {
        let (ours, _theirs) = tokio::io::duplex(8);
        let shutdown = CancellationToken::new();
        let mut ours = Patient::new(ours, shutdown.clone());
        let begun = Instant::now();
        let stop = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            shutdown.cancel();
        };
        let (written, ()) = tokio::join!(ours.write_all(&[0; 9]), stop);
        assert_eq!(written.expect_err("nobody reads").kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), 3 + TAKE_WITHIN_AT_SHUTDOWN.as_secs());
    }
}
