//! The whole executor on the in-process broker.

mod main_path;
mod public;
