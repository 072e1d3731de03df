//! What attempts report, from a handler's call or a command's line to the duty book: checked, bounded, merged, never
//! blocking.

pub(crate) mod check;
pub(crate) mod feed;
pub(crate) mod phases;
pub mod progress;
pub(crate) mod rest;
pub(crate) mod socket;
