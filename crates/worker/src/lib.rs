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

mod clock;
mod draw;
pub mod driver;
pub mod duty;
mod error;
mod handler;
mod process;
mod report;
mod shell;
mod shutdown;
mod text;
mod worker;

pub use duty::limit::{RESULT_BYTES_MAX, RESULT_DEPTH_MAX};
pub use duty::{PHASES_MAX, Phase};
pub use error::Error;
pub use handler::context::Context;
pub use handler::error::HandlerError;
pub use process::command::{ENV_VALUE_BYTES_MAX, GRACE, OUTPUT_MAX, RunConfig};
pub use process::env::ENV_PASSED;
pub use process::resident::{HandlerConfig, HandlerRun};
pub use process::shim;
pub use report::progress;
pub use shutdown::Shutdown;
pub use slotline_protocol::message::{Level, Report, Task, TaskStatus};
pub use worker::{Builder, CAPACITY_MAX, DRAIN_TIMEOUT, Worker};
