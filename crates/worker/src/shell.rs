//! Carries out what the driver and the duty book decide: the loop, the session with the broker, and what outlives a
//! process.
//!
//! ```text
//!   run ── the loop: what happens goes in, what is decided is carried out
//!   shared, running ── the duty book in use, and the attempts that it starts and ends
//!   link, publish ── the session with the broker, and messages as it takes them
//!   lock, legacy ── proof that nothing of a former process lives, and what that one left
//!   watch, notice ── a loop that stands, and lines of the log
//! ```

pub(crate) mod legacy;
pub(crate) mod link;
pub(crate) mod lock;
mod notice;
mod publish;
pub(crate) mod run;
pub(crate) mod running;
mod shared;
pub(crate) mod watch;
