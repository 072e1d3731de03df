//! The messages between the processes of Slotline, publishers and people.
//!
//! Ids, statuses, the envelope, every message on the broker, the policy of an action, and the bodies of the HTTP API.
//! Parse at the edge, once: a value of this crate's types is valid, and is not checked again.
//!
//! Deliberately absent: I/O, async, clocks, randomness, and any decision. Wire shapes only grow; `tests/wire.rs` holds
//! them against golden files.

pub mod audit;
pub mod canonical;
mod chain;
pub mod change;
#[cfg(feature = "schema")]
pub mod contract;
mod declared;
pub mod detail;
pub mod duration;
pub mod envelope;
pub mod foreign;
pub mod handler;
pub mod http;
pub mod id;
pub mod lines;
pub mod message;
mod name;
pub mod parameters;
pub mod policy;
pub mod proof;
pub mod public;
pub mod record;
mod refusal;
pub mod requested;
pub mod sizes;
pub mod status;
pub mod tasks;
mod text;
pub mod time;
mod url;

pub use audit::By;
pub use canonical::canonical;
pub use chain::{Chain, chain};
pub use change::LimitOverride;
pub use declared::{did_you_mean, perhaps_meant};
pub use detail::Detail;
pub use envelope::{Envelope, Reason, Unreadable};
pub use id::{ActionId, ActionRef, Epoch, ExecutionId, Fence, Incarnation, InvalidName, InvalidNumber, WorkerName};
pub use name::RequestName;
pub use policy::Policy;
pub use sizes::Sizes;
pub use status::{OutcomeKind, Status};
pub use time::Timestamp;
pub use url::ends_early;
