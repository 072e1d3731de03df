//! The one writer: inputs to the scheduler, commit, then effects.
//!
//! ```text
//!   link    ── one session with the broker at a time, for the whole process
//!   run     ── serves HTTP; waits for leadership; leads, and again
//!    └ term ── one leadership: what arrives ─> leader ─> batches, publications, acks, answers, carried out
//!        leader   a pure machine: what is committed when, and what leaves after it
//!        intake   requests ─> checked, known ids looked up      inbox    reports of workers ─> inputs
//!        record   what happened ─> numbered events              followers  the executors that watch them
//!                                                                 announcer  the public exchange, for subscribers
//!        outbox   effects ─> batch and letters                  mail     letters ─> publications
//!   seeking ── which executor may lead; timekeeping, clock, skew ── which clock decides
//!   change  ── what people change of actions; noted ── its actor and reason, for the log
//!   metrics ── what a scrape reads
//!   journal ── whether the database takes anything, as far as was seen
//!   control ── the questions of HTTP; handle ── to the leader here, or to another one through the broker
//! ```
//!
//! The FIFO queue manager is `slotline_scheduler`; the completion listener is [`term`]'s reading of the completions
//! queue. Deliberately absent: any decision about an execution, and any effect before its commit.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "these are for the pure leader, which denies them; all else drives it"
)]

mod announcer;
mod answer;
mod ask;
mod bodies;
mod change;
mod clock;
mod config;
mod control;
mod dead;
mod echo;
mod errands;
mod error;
pub mod examiner;
mod feed;
mod flight;
mod followers;
mod following;
mod gate;
mod handle;
mod inbox;
mod intake;
mod journal;
pub mod leader;
mod link;
mod lookout;
mod mail;
mod mark;
mod metrics;
mod noted;
mod outbox;
mod policies;
mod probation;
mod prune;
mod quarantine;
mod reading;
mod record;
mod registry;
mod remarks;
mod replies;
mod rivals;
mod run;
mod seeking;
mod skew;
mod term;
mod timekeeping;

pub use config::{Api, Config, Public};
pub use error::Error;
pub use run::run;
