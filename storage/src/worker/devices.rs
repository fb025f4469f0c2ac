//! A user's devices: which there are, and shutting one out.
//!
//! A device is known from its first confirmation on, or from its first login when there was something in the inbox, and
//! as long as it is connected. To shut it out is a durable write: from then on no token that was made before registers
//! a session of it, on whichever shard, and the one that it has is closed.

use holdfast_protocol::id::{DeviceId, Rev, UserId};

use super::cursors::{self, of_user};
use super::{Effects, Pending, Worker};
use crate::command::{
    Delivery, DeviceList, DeviceView, DevicesRequest, LAST_SEEN_STEP_MS, Refusal, Register, Revoke,
};
use crate::device::{ALL_DEVICES, Kept};
use crate::engine::{Key, Store, StoreError, Table};
use crate::layout;

/// Records of devices that are shut out, per user. Beyond, the oldest one gives way, and so that nobody comes back by
/// that, all of the user's tokens that are as old become worthless.
const SHUT_OUT: usize = 256;

impl<S: Store> Worker<S> {
    /// A device's record, when its token is worth something.
    pub(super) fn admit(&self, request: &Register) -> Result<Option<Kept>, Refusal> {
        let record = |device| {
            cursors::read(&self.store, &layout::cursor_key(request.user, device))
                .map_err(|error| self.unreadable(&error))
        };
        let kept = record(request.device)?;
        let all = record(ALL_DEVICES)?;
        if kept.iter().chain(&all).any(|kept| kept.outlaws(request.issued_at)) {
            return Err(Refusal::DeviceRevoked);
        }
        Ok(kept)
    }

    pub(super) fn decide_revoke(&mut self, revoke: &Revoke) {
        let Revoke { request, device, name } = revoke;
        let &DevicesRequest { user, session } = request;
        let written = self.may_write().and_then(|()| {
            let kept = Kept { revoked_ms: self.now_ms, name: name.clone(), ..Kept::default() };
            self.shut_out(user, layout::cursor_key(user, *device), kept)
                .map_err(|error| self.unreadable(&error))
        });
        self.pending.push(match written {
            Ok(()) => Pending::Revoked { device: *device, request: *request },
            Err(why) => {
                self.counters.refused.add(1);
                Pending::Answer(session, Delivery::Rejected { session, client_id: None, why })
            }
        });
    }

    fn shut_out(&mut self, user: UserId, key: Key, mut kept: Kept) -> Result<(), StoreError> {
        let mut shut_out = of_user(&self.store, user)?;
        if let Some((_, before)) = shut_out.iter().find(|(it, _)| *it == key) {
            // Should the clock have stepped back, what was worthless stays so.
            kept.revoked_ms = kept.revoked_ms.max(before.revoked_ms);
        }
        self.batch.put(Table::Cursors, key.clone(), kept.seal());
        let all = layout::cursor_key(user, ALL_DEVICES);
        let known =
            shut_out.iter().find(|(it, _)| *it == all).map(|(_, kept)| kept.clone()).unwrap_or_default();
        shut_out.retain(|(it, kept)| *it != all && *it != key && kept.revoked_ms > 0);
        if shut_out.len() >= SHUT_OUT
            && let Some((oldest, left)) = shut_out.into_iter().min_by_key(|(_, kept)| kept.revoked_ms)
        {
            let revoked_ms = left.revoked_ms.max(known.revoked_ms);
            self.batch.put(Table::Cursors, all.clone(), Kept { revoked_ms, ..known }.seal());
            self.cursors.wrote(all);
            if left.is_current() {
                let back = Kept { revoked_ms: 0, ..left };
                self.batch.put(Table::Cursors, oldest.clone(), back.seal());
            } else {
                self.batch.remove(Table::Cursors, oldest.clone());
            }
            self.cursors.wrote(oldest);
        }
        self.cursors.wrote(key);
        Ok(())
    }

    /// It is durable: the device's session goes, and whoever has asked is told who is left.
    pub(super) fn revoked(&mut self, device: DeviceId, request: &DevicesRequest, effects: &mut impl Effects) {
        let user = request.user;
        self.cursors.forget(user, device);
        let live = self.sessions.of(user).map(|index| self.sessions.at(index)).find(|it| it.device == device);
        if let Some(session) = live.map(|live| live.address()) {
            self.unregister(user, session);
            self.lanes.answer(session.shard, Delivery::Revoked { session }, effects);
            if session == request.session {
                return;
            }
        }
        self.list_devices(request, effects);
    }

    pub(super) fn list_devices(&mut self, request: &DevicesRequest, effects: &mut impl Effects) {
        let session = request.session;
        let delivery = match self.devices(request) {
            Ok(devices) => Delivery::Devices(Box::new(DeviceList { session, devices })),
            Err(error) => {
                let why = self.unreadable(&error);
                self.counters.refused.add(1);
                Delivery::Rejected { session, client_id: None, why }
            }
        };
        self.lanes.answer(session.shard, delivery, effects);
    }

    fn devices(&self, request: &DevicesRequest) -> Result<Vec<DeviceView>, StoreError> {
        let &DevicesRequest { user, session } = request;
        let mut records = of_user(&self.store, user)?;
        records.retain(|(key, _)| *key != layout::cursor_key(user, ALL_DEVICES));
        let mut devices = Vec::new();
        for live in self.sessions.of(user).map(|index| self.sessions.at(index)) {
            let Some(name) = self.names.of(live.device) else { continue };
            let key = layout::cursor_key(user, live.device);
            let kept = records.iter().position(|(it, _)| *it == key).map(|at| records.swap_remove(at).1);
            devices.push(DeviceView {
                name: Box::from(&**name),
                online: true,
                current: live.address() == session,
                moved_ms: None,
                cursor: self.cursors.of(user, live.device, kept.as_ref()),
            });
        }
        for (key, kept) in records {
            // Those of the first version have no names until they are back.
            if kept.is_current() && !kept.name.is_empty() {
                let device = layout::key_number(Table::Cursors, &key)?;
                let cursor = self.cursors.of(user, DeviceId(device), Some(&kept));
                let moved_ms = Some(kept.moved_ms - kept.moved_ms % LAST_SEEN_STEP_MS);
                devices.push(DeviceView { name: kept.name, online: false, current: false, moved_ms, cursor });
            }
        }
        devices.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(devices)
    }

    /// The beginning of the record of a device that has logged in, if it has none.
    pub(super) fn remember(&mut self, request: &Register, kept: Option<&Kept>, head: Rev) {
        let &Register { user, device, .. } = request;
        let is_listed = kept.is_some_and(|kept| kept.is_current() && !kept.name.is_empty());
        // An inbox that is empty has nothing that a lost device could read: most logins of a new server end here.
        if head > Rev(0) && !is_listed && self.cursors.len() < self.identity.limits.dirty_cursors {
            // Cursors never go back, so this one stays where it is.
            self.cursors.set(user, device, &request.device_name, Rev(0), self.now_ms);
        }
    }
}
