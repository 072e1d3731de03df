//! Real `slotline` processes on real servers, checked by the stamps that the attempts themselves write.
//!
//! Every test has its own virtual host and database; those that hurt a server have a server of their own.

mod actions;
mod follower;
mod listener;
mod message;
#[allow(dead_code, reason = "the tests of the references, which share this file, use all of it")]
#[path = "../documents/page.rs"]
mod page;
mod world;

mod cancel;
mod change;
mod clients;
mod clocks;
mod command_line;
mod crash;
mod ending;
mod escape;
mod flood;
mod full;
mod handlers;
mod intake;
mod journal;
mod leader;
mod log;
mod mistakes;
mod operators;
mod order;
mod policies;
mod progress;
mod public;
mod readme;
mod rewind;
mod rights;
mod sizes;
mod strangers;
mod stream;
mod terminal;
mod watch;
