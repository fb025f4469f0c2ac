//! The client against a server in memory: every way in which a connection can go wrong, on a clock that jumps.

mod acts;
mod faults;
mod recovery;
mod server;
mod talk;
mod world;
