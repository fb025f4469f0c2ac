//! A table that grows without copying: dense `u32` keys, memory in equal chunks.
//!
//! A `Vec` of a million records doubles by moving all of them and holds twice its size for a moment; here growth
//! allocates one more chunk and touches nothing that is already there. Chunks whose keys were never used do not
//! exist.

/// Records of `T`, by dense key.
#[derive(Debug)]
pub(crate) struct Chunks<T> {
    chunks: Vec<Option<Box<[T]>>>,
}

const CHUNK_SHIFT: u32 = 10;
/// Records in one chunk.
const CHUNK_RECORDS: usize = 1 << CHUNK_SHIFT;
const _: () = assert!(CHUNK_RECORDS.is_power_of_two());

impl<T> Chunks<T> {
    pub(crate) const fn new() -> Self {
        Self { chunks: Vec::new() }
    }

    /// The record of `key`, if its chunk exists.
    #[inline]
    pub(crate) fn find(&self, key: u32) -> Option<&T> {
        let chunk = self.chunks.get((key >> CHUNK_SHIFT) as usize)?.as_ref()?;
        Some(&chunk[key as usize % CHUNK_RECORDS])
    }

    /// The record of `key` for writing, if its chunk exists.
    #[inline]
    pub(crate) fn find_mut(&mut self, key: u32) -> Option<&mut T> {
        let chunk = self.chunks.get_mut((key >> CHUNK_SHIFT) as usize)?.as_mut()?;
        Some(&mut chunk[key as usize % CHUNK_RECORDS])
    }

    /// The record of `key`, whose chunk is filled by `blank` if it does not exist yet.
    #[inline]
    pub(crate) fn find_or_insert_with(&mut self, key: u32, blank: impl FnMut() -> T) -> &mut T {
        let chunk = (key >> CHUNK_SHIFT) as usize;
        if chunk >= self.chunks.len() {
            self.chunks.resize_with(chunk + 1, || None);
        }
        let records = self.chunks[chunk]
            .get_or_insert_with(|| std::iter::repeat_with(blank).take(CHUNK_RECORDS).collect());
        &mut records[key as usize % CHUNK_RECORDS]
    }
}

impl<T> std::ops::Index<u32> for Chunks<T> {
    type Output = T;

    #[inline]
    fn index(&self, key: u32) -> &T {
        self.find(key).expect("invariant: a key that is linked or in use has its chunk")
    }
}

impl<T> std::ops::IndexMut<u32> for Chunks<T> {
    #[inline]
    fn index_mut(&mut self, key: u32) -> &mut T {
        self.find_mut(key).expect("invariant: a key that is linked or in use has its chunk")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_moves_no_record_and_makes_no_chunk_in_between() {
        let mut table = Chunks::new();
        *table.find_or_insert_with(3, || 0u32) = 7;
        let before = std::ptr::from_ref(&table[3]);
        *table.find_or_insert_with(10 * CHUNK_RECORDS as u32 + 1, || 0) = 9;
        assert_eq!(before, std::ptr::from_ref(&table[3]));
        assert_eq!((table[3], table[10 * CHUNK_RECORDS as u32 + 1]), (7, 9));
        assert_eq!(table.find(5 * CHUNK_RECORDS as u32), None);
        assert_eq!(table.find(u32::MAX), None);
        assert_eq!(table.chunks.iter().flatten().count(), 2);
    }
}
