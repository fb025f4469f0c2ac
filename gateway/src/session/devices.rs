//! The user's devices: which there are, and shutting one out.

use holdfast_protocol::chat::{self, server_frame};
use holdfast_protocol::id::DeviceId;
use holdfast_router::Key;
use holdfast_storage::command::{Command, DeviceList, DevicesRequest, Revoke, SessionAddress};

use super::{Context, Outcome, Session};

/// Of a device in a list beside its name, at most, as JSON.
const DEVICE_BYTES: usize = 128;

impl Session {
    pub(super) fn ask_for_devices(&mut self, session: SessionAddress) -> Outcome {
        let request = DevicesRequest { user: self.user, session };
        Outcome::Submit(Key::User(self.user), Command::Devices(request))
    }

    pub(super) fn revoke_device(
        &mut self,
        revoke: &chat::RevokeDevice,
        session: SessionAddress,
        context: &mut Context<'_>,
    ) -> Outcome {
        if let Err(error) = chat::check_device(&revoke.device) {
            self.write_error(context, error.code(), &error.to_string(), 0, "");
            return Outcome::Nothing;
        }
        let request = DevicesRequest { user: self.user, session };
        let device = DeviceId::from_name(&revoke.device);
        let revoke = Revoke { request, device, name: revoke.device.as_str().into() };
        Outcome::Submit(Key::User(self.user), Command::Revoke(Box::new(revoke)))
    }

    pub(super) fn handle_devices(&mut self, list: DeviceList, context: &mut Context<'_>) {
        let bytes = list.devices.iter().map(|device| DEVICE_BYTES + device.name.len()).sum();
        if !self.has_room(bytes, context) {
            return;
        }
        let devices = list
            .devices
            .into_iter()
            .map(|device| chat::DeviceState {
                device: device.name.into(),
                online: device.online,
                current: device.current,
                last_seen_ms: device.moved_ms,
                cursor: device.cursor.0,
            })
            .collect();
        self.write(context, server_frame::Frame::Devices(chat::Devices { devices }));
    }
}
