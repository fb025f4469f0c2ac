//! The frame codec under random input: against itself (`properties`) and against `tungstenite` (`differential`).

mod differential;
mod properties;
mod streams;
