//! What should happen next: the pure machine of lines and leases.
//!
//! ```text
//!   requests, cancels ─┐                          ┌─ accepted, refused
//!   heartbeats, probes ├─> Scheduler::handle ─────┼─ journal: changed, attempts, settled
//!   completions        │   (input, now)           ├─ orders to workers, numbered (epoch, n)
//!   policies, time     ┘   Scheduler::take_effects└─ announcements, probe, hello
//! ```
//!
//! A line waits in order; a slot exists only as a lease (or as the claim of an execution that keeps its slot while it
//! backs off), and the slots in use are the set of those. Ready actions take turns for the capacity of workers, and
//! within an action its concurrency keys do.
//!
//! Deliberately absent: I/O, clocks, randomness, logging, hash iteration, and the bodies of executions. The caller
//! commits the effects of a batch under its epoch before any of them leaves the process.

mod action;
mod ahead;
mod attempt;
mod deadline;
mod doubt;
mod effect;
mod execution;
mod executions;
mod forecast;
mod grant;
mod heartbeat;
mod input;
mod key;
mod limits;
mod line;
mod lines;
mod loss;
mod orders;
mod pages;
mod pool;
mod recovery;
mod retry;
mod scheduler;
mod slots;
mod snapshot;
mod state;
mod view;
mod waiting;
mod window;
mod worker;

pub use doubt::{DoubtView, Evidence};
pub use effect::{
    AdoptedExecution, Announcement, AttemptEnded, Bugs, Departed, Departure, Dispatch, Effects, Enqueued, IllegalMove,
    Missing, Order, RefusedRequest, Sent, Settled, Unacceptable,
};
pub use input::{Input, Outcome, ProbedQueue, RequestToken};
pub use limits::Limits;
pub use pages::{OtherLines, WhichLine};
pub use recovery::RecoveredAction;
pub use scheduler::{Config, Counters, Scheduler};
pub use snapshot::{Lease, Snapshot};
pub use state::{Assignment, Consequence, Illegal, StateKind, Transition};
pub use view::{Attendance, WorkerView};
pub use window::BULKY_BYTES;
