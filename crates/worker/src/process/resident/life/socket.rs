//! The worker's end of the socket of a handler process: lines in, lines out, and neither waits for the other.

use std::io;

use rustix::fd::OwnedFd;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use slotline_protocol::handler::{FromHandler, ToHandler};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::process::resident::line::LineBuffer;

pub(super) struct HandlerSocket {
    input: OwnedReadHalf,
    /// `None` once it is closed.
    output: Option<OwnedWriteHalf>,
    lines: LineBuffer,
    /// What the process has not taken yet: bounded, as it has at most as many attempts as it may.
    unsent: Vec<u8>,
    closes: bool,
}

pub(super) enum Received {
    Nothing,
    Line(FromHandler),
    Unreadable(String),
    Closed { within_line: bool },
}

impl HandlerSocket {
    /// The worker's end, and the process's, which blocks as any descriptor does that a program inherits.
    pub(super) fn pair() -> io::Result<(Self, OwnedFd)> {
        let (ours, theirs) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        let ours = std::os::unix::net::UnixStream::from(ours);
        ours.set_nonblocking(true)?;
        let (input, output) = UnixStream::from_std(ours)?.into_split();
        let socket =
            Self { input, output: Some(output), lines: LineBuffer::default(), unsent: Vec::new(), closes: false };
        Ok((socket, theirs))
    }

    /// Never waits: it is written by and by.
    pub(super) fn send(&mut self, line: &ToHandler<'_>) {
        // Strings and JSON that was read before are JSON.
        if let Ok(line) = line.line() {
            self.unsent.extend(line);
        }
    }

    /// The process sees the end of its input once it has read all.
    pub(super) fn close_when_sent(&mut self) {
        self.closes = true;
    }

    /// Writes what is unsent, and returns the next line; `reads` is false for a process whose lines count no more.
    /// Cancel-safe.
    pub(super) async fn turn(&mut self, reads: bool) -> Received {
        if reads {
            match self.lines.next() {
                Ok(None) => {}
                Ok(Some(line)) => return read(&line),
                Err(_) => return Received::Unreadable("a line is too long".to_owned()),
            }
        }
        let is_unsent = !self.unsent.is_empty();
        if self.closes && !is_unsent {
            self.output = None;
        }
        tokio::select! {
            written = write(self.output.as_mut(), &self.unsent), if is_unsent => {
                match written {
                    Ok(written) => drop(self.unsent.drain(..written)),
                    // Its end is seen where it is read.
                    Err(_) => self.unsent.clear(),
                }
                Received::Nothing
            }
            read = self.input.read_buf(self.lines.space()), if reads => match read {
                Ok(1..) => Received::Nothing,
                Ok(0) | Err(_) => Received::Closed { within_line: self.lines.is_within_line() },
            },
            else => std::future::pending().await,
        }
    }
}

async fn write(output: Option<&mut OwnedWriteHalf>, bytes: &[u8]) -> io::Result<usize> {
    match output {
        Some(output) => output.write(bytes).await,
        None => Err(io::ErrorKind::BrokenPipe.into()),
    }
}

fn read(line: &[u8]) -> Received {
    match FromHandler::read(line) {
        Ok(line) => Received::Line(line),
        Err(error) => Received::Unreadable(error.to_string()),
    }
}
