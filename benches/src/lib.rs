//! Benches of the hot kernels, and the peers that the echo path is measured against.
