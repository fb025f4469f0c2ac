//! The seam under a worker.

/// Why a store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The disk is full; nothing of the batch is visible. Writes are taken again after [`Store::recover`].
    #[error("the disk is full ({free_bytes} bytes free, {reserve_bytes} are kept in reserve)")]
    Full {
        /// Free bytes, as the file system says.
        free_bytes: u64,
        /// Free bytes that are kept in reserve.
        reserve_bytes: u64,
    },
}
