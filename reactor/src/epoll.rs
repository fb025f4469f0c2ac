//! The `epoll` back end of [`crate::Driver`].
