//! The `uring` back end of [`crate::Driver`].
