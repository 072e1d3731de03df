//! A whole worker with handlers, on the in-process broker; the test is the executor.

mod duties;
mod forgery;
mod handler;
mod reports;
mod stage;
