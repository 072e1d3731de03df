//! What should happen next: the pure machine of lines and leases.

pub mod snapshot;

pub use snapshot::{Lease, Snapshot};
