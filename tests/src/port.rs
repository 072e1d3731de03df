//! Free loopback ports that stay ours: a node keeps its port through a restart.

use std::net::Ipv4Addr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, bail};
use tokio::net::TcpSocket;

/// Below the range that the kernel takes outgoing ports from, so that no connection sits on one by chance.
const FIRST: u16 = 20_000;
const LAST: u16 = 32_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// A loopback port that no other test process on this machine takes while this lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// An abstract socket is a lock that leaves no file and ends with the process.
    _claim: UnixListener,
}

impl Port {
    /// Claims a port that nothing listens on at the moment.
    pub fn claim() -> anyhow::Result<Self> {
        let span = LAST - FIRST;
        // Processes start at different places, so that they seldom try the same one.
        let offset = u16::try_from(std::process::id().wrapping_mul(97) % u32::from(span)).context("within the span")?;
        for _ in 0..span {
            let number = FIRST + (offset + NEXT.fetch_add(1, Ordering::Relaxed) % span) % span;
            let name = SocketAddr::from_abstract_name(format!("slotline-tests-port-{number}"))?;
            if let Ok(claim) = UnixListener::bind_addr(&name)
                && is_free(number)?
            {
                return Ok(Self { number, _claim: claim });
            }
        }
        bail!("no free port between {FIRST} and {LAST}")
    }

    pub fn number(&self) -> u16 {
        self.number
    }
}

/// Looks without listening: a process that another thread starts has a copy of the socket until it runs its program, and a
/// copy that listens would keep the port.
fn is_free(number: u16) -> std::io::Result<bool> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    Ok(socket.bind((Ipv4Addr::LOCALHOST, number).into()).is_ok())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::process::Command;
    use std::sync::atomic::AtomicBool;

    use super::*;

    #[test]
    fn a_claimed_port_can_be_listened_on_at_once_while_other_threads_start_processes() {
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !is_over.load(Ordering::Relaxed) {
                        Command::new("/bin/true").status().expect("a process starts");
                    }
                });
            }
            let listened: Result<Vec<_>, _> = (0..1_000)
                .map(|_| {
                    let port = Port::claim().expect("a free port");
                    TcpListener::bind((Ipv4Addr::LOCALHOST, port.number())).map(|_| ())
                })
                .collect();
            is_over.store(true, Ordering::Relaxed);
            listened.expect("nothing else has the port");
        });
    }
}
