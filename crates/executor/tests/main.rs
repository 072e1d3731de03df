//! The whole executor on the in-process broker.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "these are for the pure leader; a test drives the whole executor"
)]

mod main_path;
mod public;
