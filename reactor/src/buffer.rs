//! Receive buffers: a pool that a driver reads into, and the loan that its owner works on in place.
//!
//! A [`Buffer`] is a loan of one pool slot: it dereferences to the bytes that arrived and goes back to the pool
//! when dropped. The pool's memory lives as long as any loan of it.
//!
//! The one invariant: a slot is either free, held by the kernel, or lent to exactly one [`Buffer`].

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

/// Equal slots of memory for receives; owned by one thread.
#[derive(Debug, Clone)]
pub struct BufferPool {
    shared: Rc<Slots>,
}

#[derive(Debug)]
struct Slots {
    slot_bytes: usize,
    memory: Box<[Cell<u8>]>,
    free: RefCell<Vec<u32>>,
}

impl BufferPool {
    /// A pool of `slots` buffers of `slot_bytes` each.
    #[must_use]
    pub fn new(slots: usize, slot_bytes: usize) -> Self {
        let memory = vec![0u8; slots * slot_bytes].into_boxed_slice();
        let raw = Box::into_raw(memory);
        // SAFETY: `Cell<u8>` has the layout of `u8`; ownership moves from one box to the other.
        let memory = unsafe { Box::from_raw(raw as *mut [Cell<u8>]) };
        let free = (0..slots as u32).rev().collect();
        Self { shared: Rc::new(Slots { slot_bytes, memory, free: RefCell::new(free) }) }
    }

    /// Bytes of one slot.
    #[must_use]
    pub fn slot_bytes(&self) -> usize {
        self.shared.slot_bytes
    }

    /// Slots that are neither lent nor with the kernel.
    #[must_use]
    pub fn free_slots(&self) -> usize {
        self.shared.free.borrow().len()
    }

    /// Takes a whole free slot, or `None` when all are lent.
    #[must_use]
    pub fn take(&self) -> Option<Buffer> {
        let slot = self.shared.free.borrow_mut().pop()?;
        Some(Buffer { pool: Rc::clone(&self.shared), slot, bytes: self.shared.slot_bytes as u32 })
    }
}

/// The loan of one slot; see the module's doc.
#[derive(Debug)]
pub struct Buffer {
    pool: Rc<Slots>,
    slot: u32,
    bytes: u32,
}

impl Buffer {
    /// Shortens the loan to the bytes that arrived.
    pub fn truncate(&mut self, bytes: usize) {
        self.bytes = self.bytes.min(u32::try_from(bytes).unwrap_or(u32::MAX));
    }

    /// Where the kernel may write: the slot's first byte.
    pub(crate) fn as_mut_ptr(&mut self) -> *mut u8 {
        let start = self.slot as usize * self.pool.slot_bytes;
        self.pool.memory[start..].as_ptr() as *mut u8
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let start = self.slot as usize * self.pool.slot_bytes;
        let cells = &self.pool.memory[start..start + self.bytes as usize];
        // SAFETY: a slot off the free list belongs to this loan alone, so nobody writes while this borrow lives.
        unsafe { std::slice::from_raw_parts(cells.as_ptr().cast::<u8>(), cells.len()) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        let start = self.slot as usize * self.pool.slot_bytes;
        let cells = &self.pool.memory[start..start + self.bytes as usize];
        // SAFETY: a slot off the free list belongs to this loan alone; `Cell` allows writing through the shared pool.
        unsafe { std::slice::from_raw_parts_mut(cells.as_ptr() as *mut u8, cells.len()) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.free.borrow_mut().push(self.slot);
    }
}
