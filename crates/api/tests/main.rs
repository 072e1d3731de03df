//! The routes as a client sees them: over the router itself, and over sockets.

mod changes;
mod events;
mod hostile;
mod hub;
mod lines;
mod metrics;
mod router;
mod serve;
mod sockets;
mod ui;
mod world;
