//! The `sim` back end of [`crate::Driver`].
