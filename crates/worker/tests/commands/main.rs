//! Commands, with real processes, through a whole worker.

#[path = "../executor/mod.rs"]
mod executor;
mod files;
mod holding;
mod process;
#[path = "../processes/mod.rs"]
mod processes;
mod reports;
mod stage;
