//! `protocol::chat` from outside: the committed types, both formats against each other and against an independent
//! implementation of protobuf's JSON mapping, what is refused, and the documentation.

mod documentation;
mod frames;
mod generated;
mod properties;
mod strictness;
