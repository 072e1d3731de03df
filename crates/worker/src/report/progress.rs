//! What a command calls to report progress: one line on the socket that its worker reads.
//!
//! For programs that a worker runs as commands; `slotline progress` is made of it. A program that writes lines of its
//! own finds here the name of the variable and the longest line. Not here: the worker's end (`channel`), and handlers,
//! which have their [`crate::Context`].

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use slotline_protocol::message::Report;

use super::check::MESSAGE_BYTES_MAX;
use crate::clock;
use crate::text::truncate;

/// The variable that holds the path of the socket: a stream of lines, each one a report as JSON.
pub const SOCKET: &str = "SLOTLINE_PROGRESS_SOCKET";
/// The longest line that is read, without its newline; a longer line is dropped.
pub const LINE_BYTES_MAX: usize = 64 << 10;
/// How long [`send`] may take in all.
pub const SEND_WITHIN: Duration = Duration::from_millis(200);

/// Between two tries while the worker has not accepted earlier callers.
const TRY_AGAIN: Duration = Duration::from_millis(5);

/// Why a report was not sent. A command is right to go on.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// This process is no command of a worker, or its worker could not open a socket.
    #[error("nobody asked for progress: {SOCKET} is not set")]
    NobodyListens,
    /// The worker is gone, or did not take the report in time.
    #[error("the worker did not take the report")]
    Unreachable(#[source] io::Error),
}

/// Sends one report to the worker that runs this process. Blocks for [`SEND_WITHIN`] at most; what was sent has arrived
/// even if this process ends right afterwards.
pub fn send(report: &Report) -> Result<(), SendError> {
    let path = std::env::var_os(SOCKET).filter(|path| !path.is_empty()).ok_or(SendError::NobodyListens)?;
    send_to(PathBuf::from(path), report).map_err(SendError::Unreachable)
}

fn send_to(path: PathBuf, report: &Report) -> io::Result<()> {
    let deadline = clock::boot() + SEND_WITHIN;
    let line = line(report)?;
    let stream = connect(&SocketAddrUnix::new(path)?, deadline)?;
    let mut rest = line.as_slice();
    while !rest.is_empty() {
        match rustix::net::send(&stream, rest, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(sent) => rest = &rest[sent..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => wait_writable(&stream, deadline)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Texts are cut where the worker would cut them, so that the line itself is not too long to be read.
fn line(report: &Report) -> io::Result<Vec<u8>> {
    let mut report = report.clone();
    for text in [&mut report.message, &mut report.phase, &mut report.unit].into_iter().flatten() {
        // One byte more than the worker takes, so that it marks the cut.
        truncate(text, MESSAGE_BYTES_MAX + 1);
    }
    let mut line = serde_json::to_vec(&report)?;
    line.push(b'\n');
    Ok(line)
}

/// While its queue of callers is full, a socket refuses at once instead of blocking.
fn connect(address: &SocketAddrUnix, deadline: Duration) -> io::Result<OwnedFd> {
    loop {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        match rustix::net::connect(&socket, address) {
            Ok(()) => return Ok(socket),
            Err(Errno::AGAIN | Errno::INTR) if clock::boot() < deadline => std::thread::sleep(TRY_AGAIN),
            Err(error) => return Err(error.into()),
        }
    }
}

fn wait_writable(stream: &OwnedFd, deadline: Duration) -> io::Result<()> {
    let left = deadline.saturating_sub(clock::boot());
    if left.is_zero() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    let timeout = Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(0), tv_nsec: left.subsec_nanos().into() };
    match rustix::event::poll(&mut [PollFd::new(stream, PollFlags::OUT)], Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;

    fn listener() -> (tempfile::TempDir, PathBuf, UnixListener) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("socket");
        let listener = UnixListener::bind(&path).expect("a socket");
        (folder, path, listener)
    }

    #[test]
    fn a_report_is_one_line_that_is_there_though_its_sender_has_ended() {
        let (_folder, path, listener) = listener();
        let report = Report { message: Some("two\nlines".to_owned()), percent: Some(f64::NAN), ..Report::default() };
        send_to(path, &report).expect("sent");
        let mut lines = BufReader::new(listener.accept().expect("a caller").0).lines();
        let line = lines.next().expect("a line").expect("text");
        assert!(line.contains(r#""message":"two\nlines""#) && lines.next().is_none(), "{line}");
    }

    #[test]
    fn a_message_of_ten_megabytes_is_cut_to_a_line_that_can_be_read() {
        let message = Some("\u{1}".repeat(10 << 20));
        let line = line(&Report { message, ..Report::default() }).expect("JSON");
        assert!(line.len() <= LINE_BYTES_MAX, "{}", line.len());
    }

    #[test]
    fn nobody_who_takes_it_is_an_error_and_not_a_wait_without_end() {
        let (_folder, path, listener) = listener();
        let address = SocketAddrUnix::new(path.clone()).expect("a path");
        let start = clock::boot();
        // Until its queue is full.
        let mut callers = Vec::new();
        let error = loop {
            match connect(&address, start) {
                Ok(caller) => callers.push(caller),
                Err(error) => break error,
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let start = clock::boot();
        send_to(path, &Report::default()).expect_err("the queue is full");
        assert!(clock::boot() - start >= SEND_WITHIN, "it was patient");
        drop(listener);
    }

    #[test]
    fn a_worker_that_is_gone_is_an_error() {
        let (_folder, path, listener) = listener();
        drop(listener);
        send_to(path, &Report::default()).expect_err("nobody is there");
    }
}
