//! The scheduler, rule by rule and against chance, in a small world that the test controls.

mod ahead;
mod cancel;
mod chains;
mod doubt;
mod fifo;
mod keys;
mod limits;
mod loss;
mod model;
mod pages;
mod recovery;
mod redelivery;
mod reference;
mod retry;
mod timeouts;
mod window;
mod workers;
mod world;
