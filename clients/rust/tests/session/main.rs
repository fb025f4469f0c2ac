//! The client against a server in memory: every way in which a connection can go wrong, on a clock that jumps.

mod faults;
mod recovery;
mod server;
mod talk;
mod world;
