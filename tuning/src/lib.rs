//! The kernel and process limits that a number of connections needs: probed, explained, planned.
//!
//! Never here: sessions, chat.

#![forbid(unsafe_code)]
