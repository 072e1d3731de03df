//! The messages between a worker and a shim: datagrams of five numbers over a socket pair, and, with a start, the files
//! of the command. Each has the serial number of its attempt, so that a late one is not taken for another attempt's.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::MemfdFlags;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, SocketType,
};
use rustix::process::Pid;
use serde::{Deserialize, Serialize};

use crate::process::confine::Confinement;
use crate::process::mark::Stubborn;

const WORDS: usize = 5;
const BYTES: usize = WORDS * 8;
/// Spec, stdin, stdout, stderr.
const FILES: usize = 4;

type Words = [u64; WORDS];

/// The command to start. Travels in a file of its own, since it may be large.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) command: Vec<String>,
    pub(crate) cwd: Option<PathBuf>,
    /// Set in addition to the shim's own environment.
    pub(crate) env: Vec<(String, String)>,
    pub(crate) confinement: Confinement,
}

impl Spec {
    pub(crate) fn write(&self) -> std::io::Result<OwnedFd> {
        memory_file("slotline-spec", &serde_json::to_vec(self)?)
    }

    pub(super) fn read(file: OwnedFd) -> std::io::Result<Self> {
        let mut text = Vec::new();
        File::from(file).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }
}

/// A file without a name in any folder, with `bytes` in it, at its beginning.
pub(crate) fn memory_file(name: &str, bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.write_all(bytes)?;
    file.rewind()?;
    Ok(file.into())
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// `None`: it may run whatever becomes of the worker's link to the broker.
    pub(crate) deadline: Option<Duration>,
    /// For the processes that the command leaves behind.
    pub(crate) grace: Duration,
}

/// The files of a command.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) spec: OwnedFd,
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShimOrder {
    Extend {
        deadline: Duration,
    },
    /// SIGTERM to the group; after `grace`, the kill.
    Interrupt {
        grace: Duration,
    },
    Kill,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ShimReport {
    /// `at` is the moment before it was started, since boot; the worker turns it into a time of day, by the clock of
    /// all its stamps.
    Started { pid: Pid, at: Duration },
    /// It could not be started, and nothing of it is left.
    Refused { errno: i32 },
    /// The command itself has ended.
    Exited { code: Option<i32>, signal: Option<i32>, at: Duration },
    /// No descendant is left.
    Gone { at: Duration },
    /// The command has ended, and so many processes that it left behind now get SIGTERM.
    LeftBehind { count: u32 },
    /// A process that SIGKILL does not end; the attempt has not ended while it lives. Reported once for each.
    Stubborn(Stubborn),
}

/// What a shim finds on its socket.
pub(super) enum Received {
    Nothing,
    /// The worker is gone.
    Closed,
    Start {
        serial: u64,
        start: Start,
        files: Files,
    },
    Order {
        serial: u64,
        order: ShimOrder,
    },
}

/// The two ends: the worker's and the shim's.
pub(crate) fn pair() -> rustix::io::Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

// ---- the worker's end ----

pub(crate) fn start(socket: BorrowedFd<'_>, serial: u64, start: Start, files: &Files) -> rustix::io::Result<()> {
    let deadline = start.deadline.map_or(0, micros);
    let bytes = encode([1, serial, deadline, micros(start.grace), 0]);
    let fds = [files.spec.as_fd(), files.stdin.as_fd(), files.stdout.as_fd(), files.stderr.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(Errno::NOBUFS);
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::NOSIGNAL).map(drop)
}

pub(crate) fn order(socket: BorrowedFd<'_>, serial: u64, order: ShimOrder) -> rustix::io::Result<()> {
    let words = match order {
        ShimOrder::Extend { deadline } => [2, serial, micros(deadline), 0, 0],
        ShimOrder::Interrupt { grace } => [3, serial, micros(grace), 0, 0],
        ShimOrder::Kill => [4, serial, 0, 0, 0],
    };
    rustix::net::send(socket, &encode(words), SendFlags::NOSIGNAL).map(drop)
}

/// The next report and the serial of its attempt; `None`: the shim is gone.
pub(crate) fn receive_report(socket: BorrowedFd<'_>) -> rustix::io::Result<Option<(u64, ShimReport)>> {
    let mut bytes = [0; BYTES];
    let (length, _) = rustix::net::recv(socket, &mut bytes, RecvFlags::empty())?;
    if length == 0 {
        return Ok(None);
    }
    let [tag, serial, a, b, _] = decode(&bytes);
    let at = Duration::from_micros(b);
    let [low, high] = [a as u32, (a >> 32) as u32].map(u32::cast_signed);
    let report = match tag {
        1 => ShimReport::Started { pid: Pid::from_raw(low).ok_or(Errno::PROTO)?, at },
        2 => ShimReport::Refused { errno: low },
        3 => ShimReport::Exited { code: (high == 0).then_some(low), signal: (high != 0).then_some(high), at },
        4 => ShimReport::Gone { at },
        5 => {
            let errno = (b != 0).then(|| Errno::from_raw_os_error((b as u32).cast_signed()));
            ShimReport::Stubborn(Stubborn { pid: low, uid: (a >> 32) as u32, errno })
        }
        6 => ShimReport::LeftBehind { count: a as u32 },
        _ => return Err(Errno::PROTO),
    };
    Ok(Some((serial, report)))
}

// ---- the shim's end ----

pub(super) fn report(socket: BorrowedFd<'_>, serial: u64, report: &ShimReport) -> rustix::io::Result<()> {
    let low = |word: i32| u64::from(word.cast_unsigned());
    let words = match report {
        ShimReport::Started { pid, at } => [1, serial, low(pid.as_raw_nonzero().get()), micros(*at), 0],
        ShimReport::Refused { errno } => [2, serial, low(*errno), 0, 0],
        ShimReport::Exited { code, signal, at } => {
            let status = low(code.unwrap_or(0)) | low(signal.unwrap_or(0)) << 32;
            [3, serial, status, micros(*at), 0]
        }
        ShimReport::LeftBehind { count } => [6, serial, u64::from(*count), 0, 0],
        ShimReport::Gone { at } => [4, serial, 0, micros(*at), 0],
        ShimReport::Stubborn(Stubborn { pid, uid, errno }) => {
            let errno = errno.map_or(0, |errno| low(errno.raw_os_error()));
            [5, serial, low(*pid) | u64::from(*uid) << 32, errno, 0]
        }
    };
    rustix::net::send(socket, &encode(words), SendFlags::NOSIGNAL).map(drop)
}

pub(super) fn receive(socket: BorrowedFd<'_>) -> rustix::io::Result<Received> {
    let mut bytes = [0; BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut buffers = [IoSliceMut::new(&mut bytes)];
    let received = match rustix::net::recvmsg(socket, &mut buffers, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
        Ok(received) => received,
        Err(Errno::AGAIN | Errno::INTR) => return Ok(Received::Nothing),
        // The worker's end was closed with unread datagrams in it.
        Err(Errno::CONNRESET | Errno::PIPE) => return Ok(Received::Closed),
        Err(error) => return Err(error),
    };
    if received.bytes == 0 {
        return Ok(Received::Closed);
    }
    let mut files: Vec<OwnedFd> = Vec::new();
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            files.extend(fds);
        }
    }
    let [tag, serial, a, b, _] = decode(&bytes);
    let (first, second) = (Duration::from_micros(a), Duration::from_micros(b));
    let order = match tag {
        1 => {
            let Ok([spec, stdin, stdout, stderr]) = <[OwnedFd; FILES]>::try_from(files) else {
                return Err(Errno::PROTO);
            };
            let start = Start { deadline: (a != 0).then_some(first), grace: second };
            return Ok(Received::Start { serial, start, files: Files { spec, stdin, stdout, stderr } });
        }
        2 => ShimOrder::Extend { deadline: first },
        3 => ShimOrder::Interrupt { grace: first },
        4 => ShimOrder::Kill,
        _ => return Err(Errno::PROTO),
    };
    Ok(Received::Order { serial, order })
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn encode(words: Words) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    for (chunk, word) in bytes.chunks_exact_mut(8).zip(words) {
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

fn decode(bytes: &[u8; BYTES]) -> Words {
    let mut words = [0; WORDS];
    for (chunk, word) in bytes.chunks_exact(8).zip(&mut words) {
        *word = u64::from_le_bytes(chunk.try_into().expect("chunks of eight"));
    }
    words
}
