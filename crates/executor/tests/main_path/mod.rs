//! The whole executor on the in-process broker and an in-memory journal, with a worker played by the test.

use std::time::Duration;

mod forgery;
mod installation;
mod line;
mod played;
mod requests;

const PATIENCE: Duration = Duration::from_secs(30);
