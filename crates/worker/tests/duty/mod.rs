//! The duty book, rule by rule and against chance. Time, identity and the executor are the test's.

mod account;
mod attempt;
mod chain;
mod chance;
mod drain;
mod fence;
mod order;
mod report;
mod shortage;
mod world;
