//! The client against the sandbox and against peers of the tests' own, on loopback.
#![allow(clippy::disallowed_methods, reason = "tests spawn and look at the clock")]

mod basics;
mod chaos;
mod commands;
mod faults;
mod hostile;
mod life;
mod lifecycle;
mod load_balanced;
mod monitoring;
mod official_client;
mod peers;
mod prose;
mod regressions;
mod repeat;
mod silence;
mod srv_polling;
mod srv_seeds;
mod support;
mod zone;
