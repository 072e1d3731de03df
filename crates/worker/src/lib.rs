//! The library to write workers with: the duty book, and the process runner.

pub mod duty;
