//! The parts that the bench's programs share: operations, clients, servers and measurements.
//!
//! The programs are `server`, a cheap fake deployment; `client`, one measurement of one kind of client; and `scenario`,
//! all that is not a rate. What is run how often, and what is made of it, is decided in `run.py`.

pub mod args;
pub mod canned;
pub mod counting;
pub mod driver;
pub mod histogram;
pub mod mock;
pub mod op;
pub mod papers;
pub mod raw;
pub mod usage;
