//! Carries messages at least once: RabbitMQ, and an in-process twin with the same semantics.
//!
//! A [`Broker`] is where to connect; a [`Supervisor`] owns the one session of a process and opens the next when it
//! ends; a [`Session`] declares, publishes and consumes. Any error ends the whole session, and what was not acked or
//! not confirmed by then comes again or is sent again: nothing is repaired in place, and nothing is acked across
//! sessions.
//!
//! Deliberately absent: what the messages mean, retries of publications, and rejecting or requeueing a delivery.

mod broker;
mod consumer;
pub mod crash;
mod error;
mod memory;
mod over;
mod properties;
pub mod publisher;
pub mod pulse;
mod rabbit;
mod session;
mod supervisor;
pub mod topology;

pub use broker::Broker;
pub use consumer::{Acker, Browser, Consume, Consumer, Delivery, Tag};
pub use error::{Error, PublishError};
pub use memory::Faults;
pub use properties::{PRIORITY_NORMAL, Properties};
pub use publisher::{BODY_BYTES_MAX, Publication, Receipt};
pub use session::Session;
pub use supervisor::Supervisor;
pub use topology::Topology;

/// Directives for a log filter. lapin logs the end of each session several times, also of an orderly one, and returned
/// messages with their bodies; a [`Supervisor`] logs each end once, with its place and cause.
pub const LOG_DIRECTIVES: [&str; 1] = ["lapin=off"];
