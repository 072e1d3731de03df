//! The scheduler, rule by rule and against chance, over a small world of which the test is the master.

mod ahead;
mod cancel;
mod doubt;
mod fifo;
mod keys;
mod limits;
mod loss;
mod model;
mod recovery;
mod redelivery;
mod reference;
mod retry;
mod timeouts;
mod workers;
mod world;
