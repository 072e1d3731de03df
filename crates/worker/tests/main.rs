//! The worker: its duty book, its handlers, its commands, and the examples.

mod commands;
mod duty;
mod examples;
mod executor;
mod processes;
mod worker;
