//! Commands, with real processes, through a whole worker.

#[path = "../executor/mod.rs"]
mod executor;
mod process;
mod reports;
mod stage;
