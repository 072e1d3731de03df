//! HTTP over the executor: actions, executions, workers, health.

pub mod control;

pub use control::{Control, Kind, Refused, Submission};
