//! A sans-IO client of the Holdfast chat protocol.

#![forbid(unsafe_code)]
