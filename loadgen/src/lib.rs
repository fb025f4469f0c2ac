//! A load generator for any WebSocket server.

#![forbid(unsafe_code)]
