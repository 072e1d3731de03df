//! One installation of Slotline for one test: servers, executors, workers, actions, and ways to look at all of it.

mod api;
pub(crate) mod builder;
mod daemons;
mod servers;

use std::ops::Deref;
use std::path::PathBuf;
use std::time::Duration;

use slotline_tests::{Daemon, Postgres, Proxy, Rabbit, Sandbox, Stamps};

use crate::follower::Addresses;
pub(crate) use api::{http, list};

use builder::Lease;

/// The system's Python, for which the system's packages provide pika.
pub(crate) const PYTHON: &str = "/usr/bin/python3";
/// What all names on the broker start with.
const PREFIX: &str = "slotline";
const PUBLISHER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/system/publish.py");

/// Below the folder of the architecture.
const FAKETIME: &str = "faketime/libfaketimeMT.so.1";

/// For what takes moments on a quiet machine. Generous, since only a failing test waits that long.
pub(crate) const SOON: Duration = Duration::from_secs(60);
/// For a whole run of hundreds of processes on a small machine.
pub(crate) const LATER: Duration = Duration::from_secs(240);

/// A server that tests share, or one of the test's own that it may hurt.
pub(crate) enum Node<T: 'static> {
    Shared(&'static T),
    Own(Box<T>),
}

impl<T> Deref for Node<T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Self::Shared(node) => node,
            Self::Own(node) => node,
        }
    }
}

/// Ends, daemons before servers, on drop.
pub(crate) struct World {
    pub(crate) workers: Vec<Daemon>,
    pub(crate) executors: Vec<Daemon>,
    pub(crate) rabbit: Node<Rabbit>,
    /// Further nodes of the same cluster.
    #[allow(dead_code, reason = "only the tests of a cluster, which share this file, have several")]
    others: Vec<Rabbit>,
    pub(crate) postgres: Node<Postgres>,
    pub(crate) stamps: Stamps,
    /// Between executors and database, where the test asked for it.
    pub(crate) journal_link: Option<Proxy>,
    /// Between each executor and the broker, in their order, where the test asked for them.
    pub(crate) broker_links: Vec<Proxy>,
    has_broker_links: bool,
    executor_clocks: Vec<&'static str>,
    worker_clock: Option<&'static str>,
    sandbox: Sandbox,
    /// Straight to the server.
    database: String,
    /// For the user that may do everything: used by the tests only, not by the installation.
    amqp: String,
    actions: PathBuf,
    gates: PathBuf,
    addresses: Addresses,
    capacity: usize,
    lease: Lease,
    http: reqwest::Client,
}

impl World {
    /// One of the nodes of RabbitMQ.
    #[allow(dead_code, reason = "only the tests of a cluster, which share this file, have several")]
    pub(crate) fn node(&self, index: usize) -> &Rabbit {
        match index.checked_sub(1) {
            None => &self.rabbit,
            Some(other) => &self.others[other],
        }
    }
}
