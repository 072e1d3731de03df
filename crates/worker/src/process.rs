//! Commands: one attempt as a process below a shim, and what belongs to that on this host.
//!
//! ```text
//!   command, env, os_user, confine ── what is run, as which user, with which variables, and what it may not do
//!   attempt ── starts it, reads what it writes, reports how it ended; reader, output, printed, result, why
//!   resident ── programs that stay and run many attempts, and what they and the worker send each other
//!   pool, shim, mark ── the processes in between, and how nothing of an attempt outlives them
//!   scratch, places, aside, resources ── folders and files, beside the loop, and what the system allows
//! ```

pub(crate) mod aside;
pub(crate) mod attempt;
pub(crate) mod command;
pub(crate) mod confine;
pub(crate) mod env;
pub(crate) mod mark;
mod os_user;
mod output;
pub(crate) mod places;
pub(crate) mod pool;
mod printed;
mod reader;
pub(crate) mod resident;
pub(crate) mod resources;
mod result;
pub(crate) mod scratch;
pub mod shim;
pub(crate) mod why;
