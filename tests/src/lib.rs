//! The harness: private RabbitMQ and PostgreSQL nodes on free loopback ports, and real daemons to kill.
//!
//! Whatever a test starts lives in a [`Sandbox`]: it ends, and its files go, when the value is dropped, when the test
//! panics, and when the whole test process is killed.
//!
//! Deliberately absent: anything that knows Slotline's messages or tables. Other crates' tests use these nodes too.

mod bouncer;
mod daemon;
mod disk;
pub mod fuzz;
mod port;
mod postgres;
mod process;
mod proxy;
mod rabbit;
mod sandbox;
mod servers;
mod stamps;
pub mod stranger;
mod wait;

pub use bouncer::Bouncer;
pub use daemon::{Daemon, Exit, Launch, slotline_binary, stamp_binary};
pub use disk::Disk;
pub use fuzz::Fuzz;
pub use nix::sys::signal::Signal;
pub use port::Port;
pub use postgres::{Frozen, Postgres};
pub use proxy::{Conditions, Proxy};
pub use rabbit::{Output, Rabbit, RabbitCluster, fresh_vhost_name};
pub use sandbox::{Guarded, Sandbox};
pub use servers::SERVERS_VARIABLE;
pub use stamps::{Stamp, Stamps, check_line, most_at_once, now_ns};
pub use stranger::Stranger;
pub use wait::{eventually, eventually_blocking, eventually_every};
