//! One executor process, whether it leads or not: its session with the broker, its HTTP server, its turn to lead.
//!
//! ```text
//!   run  ── serves HTTP; waits for leadership; leads, and again
//!   link ── one session with the broker at a time, for the whole process; echo ── whether the broker answers
//!   control ── the questions of HTTP; handle ── to the leader here, or to another one through the broker; replies
//!   following ── while another executor leads: the events that clients of this one watch
//! ```

mod control;
mod echo;
mod following;
mod handle;
mod link;
mod replies;
pub(crate) mod run;
