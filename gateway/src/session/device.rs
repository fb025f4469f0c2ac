//! Names of devices, each in memory once: a million sessions on phones share one "phone".

use std::rc::Rc;
use std::sync::Arc;

use holdfast_protocol::id::DeviceId;
use rustc_hash::FxHashMap;

/// A device as its user's token names it.
#[derive(Debug)]
pub struct Device {
    /// What workers know it by.
    pub id: DeviceId,
    /// What people know it by; workers share it.
    pub name: Arc<str>,
}

/// The devices that the sessions of a shard are on.
#[derive(Debug, Default)]
pub struct Devices {
    by_id: FxHashMap<DeviceId, Rc<Device>>,
}

impl Devices {
    /// The device of this name, shared with all sessions that are on one.
    pub fn share(&mut self, name: &str) -> Rc<Device> {
        let id = DeviceId::from_name(name);
        let new = || Rc::new(Device { id, name: name.into() });
        let shared = self.by_id.entry(id).or_insert_with(new);
        // Two names may have one id, as any hash may collide. Then the second is nobody's but its session's.
        if *shared.name == *name { Rc::clone(shared) } else { new() }
    }

    /// A session on it is about to go: the last one takes the name along.
    pub fn release(&mut self, device: &Rc<Device>) {
        // One reference is the session's, the other is the map's.
        if Rc::strong_count(device) == 2 {
            self.by_id.remove(&device.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_there_once_and_goes_with_its_last_session() {
        let mut devices = Devices::default();
        let (one, other) = (devices.share("phone"), devices.share("phone"));
        assert!(Rc::ptr_eq(&one, &other));
        assert_eq!((&*one.name, one.id), ("phone", DeviceId::from_name("phone")));
        devices.release(&one);
        drop(one);
        assert_eq!(devices.by_id.len(), 1);
        devices.release(&other);
        drop(other);
        assert!(devices.by_id.is_empty());
    }
}
