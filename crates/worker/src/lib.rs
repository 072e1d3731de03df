//! The library to write workers with.
//!
//! ```no_run
//! # use slotline_worker::{Context, HandlerError, RunConfig, Shutdown, Worker};
//! # async fn example(broker: slotline_broker::Broker) -> Result<(), slotline_worker::Error> {
//! async fn echo(context: Context) -> Result<serde_json::Value, HandlerError> {
//!     context.info("echoing");
//!     Ok(context.parameters()?)
//! }
//!
//! let worker = Worker::builder("worker-1")
//!     .capacity(4)
//!     .action("demo.echo", echo)
//!     .command("deploy.app", RunConfig::new(["./deploy.sh"]))
//!     .build()?;
//! worker.run(broker, Shutdown::new()).await
//! # }
//! ```
//!
//! A worker runs what it is granted and reports the outcome until that is recorded; it decides nothing about order or
//! limits, and never touches the journal. [`duty`], a pure book, decides what the worker owes, and [`driver`], also
//! pure, decides what it does about that; everything else here carries it out. Deliberately absent: retries (the
//! executor's), and any claim on work (it is assigned).
//!
//! An attempt reports progress with [`Context::progress`], or as a command with [`progress::send`] or with lines of
//! JSON on the socket that its environment names. Neither ever fails it or holds it up: what makes no sense is clipped
//! with a warning in its log, what is too much is merged and counted, what finds no broker is kept and sent later.
//! `examples/` shows a deployment and a transfer.

mod aside;
mod check;
mod clock;
mod command;
mod confine;
mod context;
mod draw;
pub mod driver;
pub mod duty;
mod env;
mod feed;
mod handler;
mod legacy;
mod limit;
mod link;
mod lock;
mod mark;
mod notice;
mod os_user;
mod panic;
mod process;
pub mod progress;
mod publish;
mod report_socket;
mod resources;
mod rest;
mod run;
mod running;
mod scratch;
mod shared;
pub mod shim;
mod shutdown;
mod watch;
mod worker;

pub use command::{ENV_VALUE_BYTES_MAX, GRACE, OUTPUT_MAX, RunConfig};
pub use context::Context;
pub use duty::{PHASES_MAX, Phase};
pub use env::ENV_PASSED;
pub use handler::HandlerError;
pub use limit::{RESULT_BYTES_MAX, RESULT_DEPTH_MAX};
pub use shutdown::Shutdown;
pub use slotline_protocol::message::{Level, Report, Task, TaskStatus};
pub use worker::{Builder, CAPACITY_MAX, DRAIN_TIMEOUT, Error, Worker};
