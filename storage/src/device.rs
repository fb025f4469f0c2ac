//! What is kept of a user's device, in one record: how far it is, and since when it is shut out; and the names of the
//! devices that are connected.
//!
//! The record of device 0 is about all devices of the user: those that were shut out so long ago, or of which there were
//! so many, that they have no records of their own any more.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use hashbrown::HashMap;
use holdfast_protocol::id::{DeviceId, Rev};

use crate::engine::{StoreError, Table};
use crate::layout;

/// The device whose record is about all of them.
pub(crate) const ALL_DEVICES: DeviceId = DeviceId(0);

/// A device's record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Kept {
    /// The last entry that it has confirmed.
    pub(crate) cursor: Rev,
    /// When it said so, or was new, in milliseconds since 1970; 0: it has not come back since it was shut out.
    pub(crate) moved_ms: u64,
    /// Tokens that were made until then, in milliseconds since 1970, are worthless; 0: it was never shut out.
    pub(crate) revoked_ms: u64,
    /// What people know it by; empty in records of the first version.
    pub(crate) name: Box<str>,
}

impl Kept {
    pub(crate) fn seal(&self) -> Bytes {
        let mut value = BytesMut::with_capacity(layout::ENVELOPE_BYTES + 24 + self.name.len());
        value.put_bytes(0, layout::ENVELOPE_BYTES);
        value.put_u64_le(self.cursor.0);
        value.put_u64_le(self.moved_ms);
        value.put_u64_le(self.revoked_ms);
        value.put_slice(self.name.as_bytes());
        layout::sign(layout::PACKED_VERSION, &mut value);
        value.freeze()
    }

    pub(crate) fn open(key: &[u8], value: &Bytes) -> Result<Self, StoreError> {
        let wrong = |what| layout::corrupt(Table::Cursors, key, what);
        let (version, payload) = layout::open_version(Table::Cursors, key, value, layout::PACKED_VERSION)?;
        let numbers = if version == layout::VALUE_VERSION { 16 } else { 24 };
        let (numbers, name) =
            payload.split_at_checked(numbers).ok_or_else(|| wrong("the value has a wrong length"))?;
        let name = std::str::from_utf8(name).map_err(|_| wrong("the device's name is no text"))?;
        let mut numbers = numbers.as_chunks::<8>().0.iter().map(|number| u64::from_le_bytes(*number));
        let mut number = || numbers.next().unwrap_or_default();
        let (cursor, moved_ms, revoked_ms) = (Rev(number()), number(), number());
        if version == layout::VALUE_VERSION && !name.is_empty() {
            return Err(wrong("the value has a wrong length"));
        }
        Ok(Self { cursor, moved_ms, revoked_ms, name: name.into() })
    }

    /// The same device before it has confirmed anything.
    pub(crate) fn without_cursor(self) -> Self {
        Self { cursor: Rev(0), moved_ms: 0, ..self }
    }

    /// Whether a token of this age is worthless. Tokens tell the second: those of the same one may be older.
    pub(crate) fn outlaws(&self, issued_at: u64) -> bool {
        self.revoked_ms > 0 && issued_at <= self.revoked_ms / 1_000
    }

    /// Whether the device counts as one of the user's: one that was shut out and has not come back does not.
    pub(crate) fn is_current(&self) -> bool {
        self.moved_ms > 0 || self.revoked_ms == 0
    }
}

/// The names of the devices that are connected, each in memory once: a million phones share one "phone".
#[derive(Debug, Default)]
pub(crate) struct Names {
    known: HashMap<DeviceId, (Arc<str>, u32)>,
}

impl Names {
    /// One more session is on this device. Should two names have one id, as any hash may collide, the first one stays.
    pub(crate) fn add(&mut self, device: DeviceId, name: &Arc<str>) {
        self.known.entry(device).or_insert_with(|| (Arc::clone(name), 0)).1 += 1;
    }

    /// One session less.
    pub(crate) fn release(&mut self, device: DeviceId) {
        if let Some((_, sessions)) = self.known.get_mut(&device) {
            *sessions -= 1;
            if *sessions == 0 {
                self.known.remove(&device);
            }
        }
    }

    /// What people know a device by that is connected.
    pub(crate) fn of(&self, device: DeviceId) -> Option<&Arc<str>> {
        self.known.get(&device).map(|(name, _)| name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written_and_those_of_the_first_version_too() {
        let kept = Kept { cursor: Rev(7), moved_ms: 8, revoked_ms: 9, name: "phone".into() };
        assert_eq!(Kept::open(b"k", &kept.seal()).unwrap(), kept);
        let first = layout::seal_numbers([7, 8]);
        let read = Kept::open(b"k", &first).unwrap();
        assert_eq!(read, Kept { cursor: Rev(7), moved_ms: 8, ..Kept::default() });
        assert!(Kept::open(b"k", &layout::seal_numbers([7])).is_err(), "too short");
        assert!(
            Kept::open(b"k", &layout::seal_numbers([7, 8, 9])).is_err(),
            "the first version had no names"
        );
    }

    #[test]
    fn a_name_goes_with_its_last_session() {
        let mut names = Names::default();
        let (phone, name) = (DeviceId::from_name("phone"), Arc::from("phone"));
        names.add(phone, &name);
        names.add(phone, &Arc::from("phone"));
        assert!(Arc::ptr_eq(names.of(phone).unwrap(), &name), "there once");
        names.release(phone);
        assert_eq!(names.of(phone).map(|name| &**name), Some("phone"));
        names.release(phone);
        names.release(phone);
        assert_eq!(names.of(phone), None);
    }
}
