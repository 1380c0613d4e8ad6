//! The client against real servers: mongod and SecantusDB, each test with servers of its own.
//!
//! `tests/run` fetches the servers and tells where they are: `MONGOLINK_MONGOD`, `MONGOLINK_SECANTUS`. A test whose server
//! is not there says so and counts as skipped; with `CI=true` it fails.
#![cfg(unix)]
#![allow(clippy::disallowed_methods, reason = "tests spawn and look at the clock")]

mod mongod;
mod prose;
mod secantus;
mod support;
