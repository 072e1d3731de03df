//! Commands, with real processes, through a whole worker.

mod files;
mod holding;
mod process;
mod reports;
mod stage;
