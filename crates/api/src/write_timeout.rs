//! A connection that is closed once its client reads nothing for too long.
//!
//! A stream's buffer is bounded, but a client that never reads would hold its connection, and a stream's permit, for
//! ever. TCP itself keeps a peer that acknowledges and reads nothing.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;

/// How long a client may take to read [`TAKE_BYTES`] that wait for it.
pub(crate) const TAKE_WITHIN: Duration = Duration::from_secs(60);
/// The same during shutdown, which waits for all answers.
pub(crate) const TAKE_WITHIN_AT_SHUTDOWN: Duration = Duration::from_secs(1);

/// How much a client must read in that time, unless it reads all: one that reads a byte a minute would hold its memory
/// for ever.
const TAKE_BYTES: usize = 64 << 10;

/// Reads and writes as `S` does; a write fails once it, and those right before it, have waited for longer than
/// [`TAKE_WITHIN`] for too few bytes.
pub(crate) struct WriteTimeout<S> {
    inner: S,
    shutdown: CancellationToken,
    /// The timer, which runs while a write waits.
    timer: Option<BoxFuture<'static, ()>>,
    /// The bytes that were read since a write began to wait.
    taken: usize,
}

impl<S> WriteTimeout<S> {
    pub(crate) fn new(inner: S, shutdown: CancellationToken) -> Self {
        Self { inner, shutdown, timer: None, taken: 0 }
    }

    fn reset(&mut self) {
        (self.timer, self.taken) = (None, 0);
    }

    fn check(&mut self, written: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = written {
            self.taken += written.as_ref().copied().unwrap_or(0);
            if self.taken >= TAKE_BYTES {
                self.reset();
            }
            return Poll::Ready(written);
        }
        let timer = self.timer.get_or_insert_with(|| time_over(self.shutdown.clone()).boxed());
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client reads nothing")))
    }
}

/// Returns when the time is over.
async fn time_over(shutdown: CancellationToken) {
    let sooner = async {
        shutdown.cancelled().await;
        tokio::time::sleep(TAKE_WITHIN_AT_SHUTDOWN).await;
    };
    // Whichever comes first.
    let _ = tokio::time::timeout(TAKE_WITHIN, sooner).await;
}

impl<S: AsyncRead + Unpin> AsyncRead for WriteTimeout<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for WriteTimeout<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.check(written, cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.check(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Called once nothing waits to be written any more.
        self.reset();
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
    async fn a_client_that_reads_nothing_for_too_long_is_given_up_and_one_that_reads_a_little_is_not() {
        let (ours, mut theirs) = tokio::io::duplex(TAKE_BYTES);
        let mut ours = WriteTimeout::new(ours, CancellationToken::new());
        let (given, mut taken) = (vec![0; TAKE_BYTES], vec![0; TAKE_BYTES]);
        ours.write_all(&given).await.expect("there is room");
        for _ in 0..5 {
            let slow = async {
                tokio::time::sleep(TAKE_WITHIN - Duration::from_secs(1)).await;
                theirs.read_exact(&mut taken).await
            };
            let (written, read) = tokio::join!(ours.write_all(&given), slow);
            assert!(written.is_ok() && read.is_ok(), "{written:?} {read:?}");
        }
        let begun = Instant::now();
        let error = ours.write_all(&given).await.expect_err("the client does not read");
        assert_eq!((error.kind(), begun.elapsed().as_secs()), (io::ErrorKind::TimedOut, TAKE_WITHIN.as_secs()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_a_byte_now_and_then_is_given_up_unless_that_is_all_there_is() {
        let (ours, mut theirs) = tokio::io::duplex(8);
        let mut ours = WriteTimeout::new(ours, CancellationToken::new());
        let drip = tokio::spawn(async move {
            while theirs.read_u8().await.is_ok() {
                tokio::time::sleep(TAKE_WITHIN / 4).await;
            }
        });
        for _ in 0..20 {
            ours.write_all(&[0; 3]).await.expect("little is given");
            ours.flush().await.expect("it is all");
        }
        let begun = Instant::now();
        let error = ours.write_all(&[0; TAKE_BYTES]).await.expect_err("it would take a fortnight");
        assert_eq!((error.kind(), begun.elapsed().as_secs()), (io::ErrorKind::TimedOut, TAKE_WITHIN.as_secs()));
        drop(ours);
        drip.await.expect("no panic");
    }

    #[tokio::test(start_paused = true)]
    async fn at_shutdown_the_time_is_shorter() {
        let (ours, _theirs) = tokio::io::duplex(8);
        let shutdown = CancellationToken::new();
        let mut ours = WriteTimeout::new(ours, shutdown.clone());
        let begun = Instant::now();
        let stop = async {
            tokio::time::sleep(Duration::from_secs(3)).await;
            shutdown.cancel();
        };
        let (written, ()) = tokio::join!(ours.write_all(&[0; 9]), stop);
        assert_eq!(written.expect_err("the client does not read").kind(), io::ErrorKind::TimedOut);
        assert_eq!(begun.elapsed().as_secs(), 3 + TAKE_WITHIN_AT_SHUTDOWN.as_secs());
    }
}
