//! One output of a command or a handler process, while it is read.

use std::io;
use std::sync::Arc;

use rustix::fd::OwnedFd;
use rustix::pipe::PipeFlags;
use slotline_protocol::message::Stream;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

use super::output::{Allowance, Output};
use crate::report::feed::AttemptFeed;

const READ_BYTES: usize = 16 << 10;

pub(super) struct Reader {
    pipe: pipe::Receiver,
    pub(super) output: Output,
    buffer: Box<[u8]>,
    pub(super) is_over: bool,
}

impl Reader {
    pub(super) fn new(pipe: OwnedFd, stream: Stream) -> io::Result<Self> {
        let pipe = pipe::Receiver::from_owned_fd(pipe)?;
        Ok(Self { pipe, output: Output::new(stream), buffer: vec![0; READ_BYTES].into_boxed_slice(), is_over: false })
    }

    /// Reads once; never returns when the stream is over. Cancel-safe.
    pub(super) async fn read(&mut self) -> usize {
        if self.is_over {
            return std::future::pending().await;
        }
        self.pipe.read(&mut self.buffer).await.unwrap_or(0)
    }

    /// Reads what is there, without waiting; asked of the system itself, which knows before the runtime does.
    pub(super) fn read_now(&mut self) -> Option<usize> {
        if self.is_over {
            return None;
        }
        rustix::io::read(&self.pipe, &mut *self.buffer).ok()
    }

    /// Takes as many bytes as were read; none means that the stream is over.
    pub(super) fn take(&mut self, read: usize, allowance: &mut Allowance, feed: &Arc<AttemptFeed>) {
        self.is_over = read == 0;
        self.output.take(&self.buffer[..read], allowance, feed);
    }

    /// Takes what belongs to no attempt: kept for the error that it may explain, and otherwise returned.
    pub(super) fn pass(&mut self, read: usize) -> &[u8] {
        self.is_over = read == 0;
        self.output.pass(&self.buffer[..read]);
        &self.buffer[..read]
    }
}

/// The reading end, and the writing end.
pub(super) fn pipe() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
}
