//! Commands, with real processes, through a whole worker.

#[path = "../executor/mod.rs"]
mod executor;
mod files;
mod process;
mod reports;
mod stage;
