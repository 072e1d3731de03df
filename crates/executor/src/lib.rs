//! The one writer: inputs to the scheduler, commit, then effects.
//!
//! ```text
//!   process  one executor process: session with the broker, HTTP, waiting for leadership; leads, and again
//!   shell    one leadership: what arrives ─> leader ─> batches, publications, acks, answers, carried out
//!   leader   a pure machine: what is committed when, and what leaves after it
//!   record   what happened ─> numbered events; pure as well
//! ```
//!
//! Each imports from those below it only, as `tests/layering/wings.rs` holds. The FIFO queue manager is
//! `slotline_scheduler`; the completion listener is `shell::term`'s reading of the completions queue. Deliberately absent:
//! any decision about an execution, and any effect before its commit.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "these are for the pure leader, which denies them; all else drives it"
)]

mod config;
mod error;
pub mod leader;
mod process;
mod record;
pub mod shell;

pub use config::{Api, Config, Public};
pub use error::Error;
pub use process::run::run;
pub use shell::intake::examiner;
