//! The same cases on real PostgreSQL, on SQLite in a file and on SQLite in memory.
//!
//! What only one database can do is in `postgres`. The harness starts a private PostgreSQL for this process.

mod actions;
mod announcements;
mod audit;
mod browse;
mod commit;
mod dead;
mod leadership;
mod messages;
mod migrate;
mod model;
mod postgres;
mod prune;
mod record;
mod recovery;
mod refused;
mod verify;
mod world;
