//! What is *kept*: the workers that own conversations and users, and the engines under them.
//!
//! Never here: HTTP, WebSocket.

#![forbid(unsafe_code)]

pub mod command;
