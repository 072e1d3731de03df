//! What runs until it is stopped: `executor`, `worker`, and both in one process (`dev`, `demo`).
//!
//! Not here: what an executor and a worker do; this is how each is made from its settings.

mod activity;
pub(crate) mod demo;
pub(crate) mod dev;
mod embedded;
pub(crate) mod executor;
mod host;
pub(crate) mod worker;
