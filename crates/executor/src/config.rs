//! The settings of an executor at its start.

use std::path::PathBuf;
use std::time::Duration;

use slotline_api::Tokens;
use tokio::net::TcpListener;

/// The executor's settings. Lengths are announced to workers, so they hold for the whole installation.
#[derive(Clone, Debug)]
pub struct Config {
    /// The name of this executor for people.
    pub name: String,
    /// `L`: silence after which a worker's incarnation is lost.
    pub lease: Duration,
    /// `F`: silence after which a worker ends its own attempts; less than `lease`.
    pub fence: Duration,
    /// `H`: time between two heartbeats.
    pub heartbeat: Duration,
    /// How long settled executions and their `message_id`s are kept.
    pub retention: Duration,
    /// Events of one execution that are kept in full; of older ones only the newest message of each level.
    pub events_kept: u64,
    /// What the public exchange carries while this executor leads.
    pub public: Public,
}

/// What is published of executions for subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Public {
    /// Moves from one status to the next.
    pub statuses: bool,
    /// Ends, with results and errors.
    pub results: bool,
    /// Starts, progress, and the ends of attempts.
    pub progress: bool,
    /// What commands print.
    pub logs: bool,
}

impl Public {
    pub const NOTHING: Self = Self { statuses: false, results: false, progress: false, logs: false };
}

impl Default for Public {
    fn default() -> Self {
        Self { statuses: true, results: true, progress: true, logs: true }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "executor".to_owned(),
            lease: Duration::from_secs(60),
            fence: Duration::from_secs(45),
            heartbeat: Duration::from_secs(5),
            retention: Duration::from_secs(7 * 24 * 60 * 60),
            events_kept: 1000,
            public: Public::default(),
        }
    }
}

impl Config {
    /// The fence must fall before the loss is declared, for any difference of clock rates.
    pub(crate) fn check(&self) -> Result<(), crate::Error> {
        let Self { lease, fence, heartbeat, .. } = *self;
        let invalid = |message| Err(crate::Error::InvalidConfig(message));
        if heartbeat.is_zero() {
            return invalid("the heartbeat is 0 s: expected more (--heartbeat)".to_owned());
        }
        if fence < heartbeat * 2 {
            return invalid(format!(
                "the fence is {fence:?} and the heartbeat {heartbeat:?}: expected a fence of at least two heartbeats, here \
                 {:?} (--fence, --heartbeat)",
                heartbeat * 2
            ));
        }
        if self.events_kept == 0 {
            return invalid("events_kept is 0: expected at least 1 (--events-kept)".to_owned());
        }
        let lease_min = fence + fence / 10;
        if lease < lease_min {
            return invalid(format!(
                "the lease is {lease:?} and the fence {fence:?}: expected a lease at least a tenth longer than the fence, \
                 here {lease_min:?} (--lease, --fence)"
            ));
        }
        Ok(())
    }
}

/// Where the executor serves HTTP, and for which clients.
#[derive(Debug)]
pub struct Api {
    pub listener: TcpListener,
    /// Without any: every client that can reach the listener.
    pub tokens: Tokens,
    /// Where the files of the page are read from; `None`: they are part of the program.
    pub page: Option<PathBuf>,
}
