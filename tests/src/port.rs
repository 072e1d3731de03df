//! Free loopback ports that stay ours: a node keeps its port through a restart.

use std::net::{Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context, bail};

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
                && TcpListener::bind((Ipv4Addr::LOCALHOST, number)).is_ok()
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
