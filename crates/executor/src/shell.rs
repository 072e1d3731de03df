//! Carries out what the leader decides: one loop that owns clock, store and broker session for one leadership.
//!
//! ```text
//!   feed ── the leader's queues ─> inbox    reports of workers ─> items
//!                                └> intake  requests ─> read, checked, known names looked up
//!   term ── one leadership: what arrives ─> leader ─> its actions, carried out
//!    ├ flight   one batch into the journal       mail      letters ─> publications
//!    ├ errands  confirms, dead letters, acks     announcer the public exchange, for subscribers
//!    └ entry, farewell, mark                     how it begins, how it ends, what it leaves on the broker
//!   clock, timekeeping ── which clock decides    seeking   which executor may lead
//!   metrics ── what a scrape reads               viewing   all lines, once a second while some client looks
//! ```
//!
//! Not here: any decision about an execution (`leader`), and what a process does while another one leads (`process`).

mod announcer;
pub(crate) mod clock;
pub(crate) mod context;
pub(crate) mod dead;
mod errands;
mod feed;
mod flight;
pub(crate) mod gate;
pub(crate) mod headers;
mod inbox;
pub(crate) mod intake;
pub(crate) mod journal;
mod mail;
pub(crate) mod mark;
pub(crate) mod metrics;
mod noted;
pub(crate) mod policies;
mod prune;
mod registry;
pub(crate) mod remarks;
pub(crate) mod seeking;
pub(crate) mod term;
pub(crate) mod timekeeping;
mod viewing;

pub use gate::{Gate, Refusals};
pub use mail::Postman;
