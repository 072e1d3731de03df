//! One file for each command that does its work and ends; `follow` waits for what `run` and `watch` need.
//!
//! Not here: asking the API (`client`), printing (`show`), and what runs until it is stopped (`daemons`).

pub(crate) mod apply;
pub(crate) mod audit;
pub(crate) mod dead;
pub(crate) mod executions;
mod follow;
pub(crate) mod limit;
pub(crate) mod logs;
pub(crate) mod migrate;
pub(crate) mod open;
pub(crate) mod pause;
pub(crate) mod policies;
pub(crate) mod progress;
pub(crate) mod queue;
pub(crate) mod rabbitmq;
pub(crate) mod run;
pub(crate) mod schema;
pub(crate) mod verify;
pub(crate) mod watch;
pub(crate) mod workers;
