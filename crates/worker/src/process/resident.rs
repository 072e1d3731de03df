//! Handler processes: programs that stay, and run many attempts, in whatever language has a library for it.
//!
//! ```text
//!   config ── what an actions file declares
//!   group ── which process runs which attempt, and when a process is started; one task for each declared handler
//!   roster ── the attempts that wait, and the processes with their room; decides, and sends nothing
//!   life ── one process below a shim: its socket, its output, its end
//!   open ── the attempts in one process, and what it reports of them
//!   line ── bytes into lines
//! ```
//!
//! The shim of a process holds the fence as that of a command does, and extends to all its attempts: they end with
//! their process. Not here: what is sent (`slotline_protocol::handler`).

mod config;
mod group;
mod life;
mod line;
mod open;
mod roster;

pub(crate) use config::Resident;
pub use config::{HandlerConfig, HandlerRun};
pub(crate) use group::{GroupInput, run};
