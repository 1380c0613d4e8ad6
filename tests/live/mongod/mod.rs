//! The client against mongod, alone and as a replica set of three.

mod events;
mod failover;
mod login;
mod reads;
mod repeat;
mod secrecy;
mod silence;
mod standalone;
