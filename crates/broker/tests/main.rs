//! Both brokers alike, and what only one of them can suffer or be made to do.

mod conformance;
mod endpoints;
mod outage;
mod returns;
mod strangers;
mod twin;
