//! The `holdfast-load` binary.

fn main() {}
