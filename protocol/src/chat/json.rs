//! Protobuf's JSON mapping of the schema, by hand over `serde`, so that it is stricter and says more than a derived
//! one: names in camelCase, 64-bit numbers as strings (numbers are taken too), bytes as base64, a `oneof` as the one
//! key that it holds.
//!
//! Read strictly: an unknown field, a field that comes twice, two frames in one message, `null`, a float, a number
//! out of range and anything after the frame are errors that name the field and what is allowed there. A value is
//! looked at only when its name is known, so the depth of the schema bounds the depth of the recursion.
//! Written completely: a field with its zero value stands there as well, so that a reader in a scripting language
//! need not ask whether it is there; only what the schema calls optional may be absent.

use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::display::Base64Display;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose};
use bytes::Bytes;
use serde::de::{self, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{
    Accepted, Ack, AddMembers, Block, Body, ClientFrame, Content, ConversationState, Conversations,
    ConversationsRequest, CreateGroup, Custom, Delete, Deleted, DeviceState, Devices, DevicesRequest, Drain,
    Edit, Edited, Entry, Error, Event, Expired, Gap, GroupCreated, GroupMember, GroupRequest, GroupState,
    Hello, History, HistoryRequest, Leave, Limits, Media, MemberLeft, MemberReceipt, MemberRemoved,
    MembersAdded, Message, Page, People, PeopleRequest, Person, Ping, Pong, Presence, Read, ReadMark,
    Receipts, ReceiptsRequest, RemoveMember, Rename, Renamed, RetentionSet, RevokeDevice, Role, RoleSet,
    Send, ServerFrame, SetAway, SetContact, SetPrivacy, SetRetention, SetRole, Snapshot, Sync, Typing,
    Unblock, UserPresence, UserTyping, WatchPresence, Welcome, body, client_frame, content, entry,
    server_frame,
};

/// A message whose fields may all be there.
macro_rules! object {
    ($type:ident { $($name:literal => $field:ident),+ $(,)? }) => {
        impl Object for $type {
            const FIELDS: &'static [&'static str] = &[$($name),+];
            const ONE_OF: bool = false;

            fn read_field<'de, A: MapAccess<'de>>(&mut self, field: usize, map: &mut A) -> Result<(), A::Error> {
                match Self::FIELDS[field] {
                    $($name => self.$field = map.next_value_seed(Reading::new($name))?,)+
                    other => unreachable!("`{other}` is in FIELDS"),
                }
                Ok(())
            }

            fn write_fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
                $(if self.$field.is_present() {
                    map.serialize_entry($name, &Write(&self.$field))?;
                })+
                Ok(())
            }
        }
    };
}

/// A message without fields.
macro_rules! empty {
    ($type:ident) => {
        impl Object for $type {
            const FIELDS: &'static [&'static str] = &[];
            const ONE_OF: bool = false;

            fn read_field<'de, A: MapAccess<'de>>(&mut self, _: usize, _: &mut A) -> Result<(), A::Error> {
                unreachable!("it has no fields")
            }

            fn write_fields<M: SerializeMap>(&self, _: &mut M) -> Result<(), M::Error> {
                Ok(())
            }
        }
    };
}

/// A message that is one `oneof` and nothing else.
macro_rules! one_of {
    ($type:ident.$field:ident: $kind:path { $($name:literal => $variant:ident),+ $(,)? }) => {
        impl Object for $type {
            const FIELDS: &'static [&'static str] = &[$($name),+];
            const ONE_OF: bool = true;

            fn read_field<'de, A: MapAccess<'de>>(&mut self, field: usize, map: &mut A) -> Result<(), A::Error> {
                use $kind as Kind;
                self.$field = Some(match Self::FIELDS[field] {
                    $($name => Kind::$variant(map.next_value_seed(Reading::new($name))?),)+
                    other => unreachable!("`{other}` is in FIELDS"),
                });
                Ok(())
            }

            fn write_fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
                use $kind as Kind;
                match &self.$field {
                    $(Some(Kind::$variant(value)) => map.serialize_entry($name, &Write(value)),)+
                    None => Ok(()),
                }
            }
        }
    };
}

object!(Hello { "token" => token, "device" => device, "cursor" => cursor, "everyEntry" => every_entry });
object!(Send {
    "clientId" => client_id, "conversation" => conversation, "body" => body, "replyTo" => reply_to,
});
object!(Custom { "contentType" => content_type, "data" => data });
object!(Media {
    "id" => id, "contentType" => content_type, "bytes" => bytes, "name" => name, "caption" => caption,
});
object!(CreateGroup {
    "clientId" => client_id, "title" => title, "members" => members, "openHistory" => open_history,
});
object!(AddMembers { "clientId" => client_id, "conversation" => conversation, "users" => users });
object!(RemoveMember { "clientId" => client_id, "conversation" => conversation, "user" => user });
object!(Leave { "clientId" => client_id, "conversation" => conversation });
object!(Rename { "clientId" => client_id, "conversation" => conversation, "title" => title });
object!(SetRole { "clientId" => client_id, "conversation" => conversation, "user" => user, "role" => role });
object!(SetRetention { "clientId" => client_id, "conversation" => conversation, "days" => days });
object!(Edit { "clientId" => client_id, "conversation" => conversation, "seq" => seq, "content" => content });
object!(Delete { "clientId" => client_id, "conversation" => conversation, "seq" => seq });
object!(HistoryRequest {
    "conversation" => conversation, "before" => before, "after" => after, "limit" => limit,
});
object!(Typing { "conversation" => conversation, "stopped" => stopped });
object!(Read { "conversation" => conversation, "upTo" => up_to });
object!(ReceiptsRequest { "conversation" => conversation });
object!(ConversationsRequest { "after" => after, "limit" => limit });
object!(GroupRequest { "conversation" => conversation });
object!(WatchPresence { "users" => users });
object!(SetAway { "away" => away });
empty!(DevicesRequest);
object!(RevokeDevice { "device" => device });
object!(Block { "user" => user });
object!(Unblock { "user" => user });
object!(SetContact { "user" => user, "contact" => contact });
object!(SetPrivacy { "presence" => presence });
object!(PeopleRequest { "after" => after, "limit" => limit });
object!(People { "presence" => presence, "people" => people, "end" => end, "changed" => changed });
object!(Person { "user" => user, "contact" => contact, "blocked" => blocked });
object!(Devices { "devices" => devices });
object!(DeviceState {
    "device" => device, "online" => online, "current" => current, "lastSeenMs" => last_seen_ms, "cursor" => cursor,
});
object!(Presence { "users" => users });
object!(UserPresence { "user" => user, "online" => online, "away" => away, "lastSeenMs" => last_seen_ms });
object!(ConversationState {
    "conversation" => conversation, "rev" => rev, "unread" => unread, "read" => read, "title" => title,
    "role" => role, "gone" => gone, "messages" => messages,
});
object!(Conversations { "conversations" => conversations, "rev" => rev, "end" => end });
object!(Snapshot { "conversations" => conversations, "rev" => rev, "end" => end });
object!(GroupState {
    "conversation" => conversation, "title" => title, "openHistory" => open_history, "members" => members,
    "seq" => seq, "retentionDays" => retention_days,
});
object!(GroupMember { "user" => user, "role" => role, "joined" => joined });
object!(Receipts { "conversation" => conversation, "members" => members });
object!(MemberReceipt { "user" => user, "read" => read, "delivered" => delivered });
object!(UserTyping { "conversation" => conversation, "user" => user, "stopped" => stopped });
object!(GroupCreated { "title" => title, "members" => members, "openHistory" => open_history });
object!(MembersAdded { "users" => users, "title" => title });
object!(MemberRemoved { "user" => user });
object!(MemberLeft { "newOwner" => new_owner });
object!(Renamed { "title" => title });
object!(RoleSet { "user" => user, "role" => role });
object!(RetentionSet { "days" => days });
object!(Edited { "seq" => seq, "content" => content });
object!(Deleted { "seq" => seq });
empty!(Expired);
object!(Ack { "rev" => rev });
object!(Sync { "after" => after, "limit" => limit, "everyEntry" => every_entry });
object!(Ping { "nonce" => nonce });
object!(Welcome {
    "session" => session, "user" => user, "device" => device, "heartbeatMs" => heartbeat_ms,
    "cursor" => cursor, "head" => head, "limits" => limits, "serverTimeMs" => server_time_ms,
});
object!(Limits {
    "messageBytes" => message_bytes, "pageEntries" => page_entries,
    "sendPerSecond" => send_per_second, "sendBurst" => send_burst,
});
object!(Accepted {
    "clientId" => client_id, "messageId" => message_id, "seq" => seq, "conversation" => conversation,
});
object!(Event { "rev" => rev, "entry" => entry });
object!(Message {
    "conversation" => conversation, "seq" => seq, "messageId" => message_id, "sender" => sender,
    "clientId" => client_id, "device" => device, "timeMs" => time_ms, "body" => body, "replyTo" => reply_to,
    "changedBy" => changed_by, "ordinal" => ordinal,
});
object!(ReadMark { "conversation" => conversation, "upTo" => up_to, "ordinal" => ordinal });
object!(History { "conversation" => conversation, "messages" => messages, "head" => head, "end" => end });
object!(Page { "events" => events, "head" => head, "live" => live });
object!(Gap { "from" => from, "to" => to, "why" => why });
object!(Drain { "afterMs" => after_ms, "to" => to });
object!(Error {
    "code" => code, "message" => message, "retryAfterMs" => retry_after_ms, "clientId" => client_id,
});
object!(Pong { "nonce" => nonce });

one_of!(ClientFrame.frame: client_frame::Frame {
    "hello" => Hello, "send" => Send, "ack" => Ack, "sync" => Sync, "ping" => Ping,
    "createGroup" => CreateGroup, "addMembers" => AddMembers, "removeMember" => RemoveMember,
    "leave" => Leave, "rename" => Rename, "setRole" => SetRole, "edit" => Edit, "delete" => Delete,
    "history" => History, "typing" => Typing, "read" => Read, "receipts" => Receipts,
    "conversations" => Conversations, "group" => Group, "watchPresence" => WatchPresence,
    "setAway" => SetAway, "devices" => Devices, "revokeDevice" => RevokeDevice, "block" => Block,
    "unblock" => Unblock, "setContact" => SetContact, "setPrivacy" => SetPrivacy, "people" => People,
    "setRetention" => SetRetention,
});
one_of!(ServerFrame.frame: server_frame::Frame {
    "welcome" => Welcome, "accepted" => Accepted, "event" => Event, "page" => Page,
    "gap" => Gap, "drain" => Drain, "error" => Error, "pong" => Pong, "history" => History,
    "typing" => Typing, "receipts" => Receipts, "conversations" => Conversations, "snapshot" => Snapshot,
    "group" => Group, "presence" => Presence, "devices" => Devices, "people" => People,
});
one_of!(Body.kind: body::Kind {
    "text" => Text, "custom" => Custom, "media" => Media, "groupCreated" => GroupCreated,
    "membersAdded" => MembersAdded, "memberRemoved" => MemberRemoved, "memberLeft" => MemberLeft,
    "renamed" => Renamed, "roleSet" => RoleSet, "edited" => Edited, "deleted" => Deleted,
    "retentionSet" => RetentionSet, "expired" => Expired,
});
one_of!(Content.kind: content::Kind { "text" => Text, "custom" => Custom, "media" => Media });
one_of!(Entry.kind: entry::Kind { "message" => Message, "read" => Read });

/// Reads one object and nothing after it.
pub(super) fn from_slice<T: Object>(bytes: &[u8]) -> Result<T, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let value = T::read("the message", &mut json)?;
    json.end()?;
    Ok(value)
}

/// Appends an object.
pub(super) fn to_vec<T: Object>(value: &T, out: &mut Vec<u8>) {
    value
        .write(&mut serde_json::Serializer::new(out))
        .expect("memory can be written to, and every key is a string");
}

/// The names of an object's fields, in the order of the schema.
pub(super) fn field_names<T: Object>() -> &'static [&'static str] {
    T::FIELDS
}

/// What a field's value may be.
pub(super) trait Value: Sized {
    /// Reads the value of `field`, which errors name.
    fn read<'de, D: Deserializer<'de>>(field: &'static str, json: D) -> Result<Self, D::Error>;

    fn write<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error>;

    /// False for what the schema calls optional and is not there.
    fn is_present(&self) -> bool {
        true
    }
}

/// A message of the schema: an object with known fields.
pub(super) trait Object: Default {
    /// Its fields' names, in the order of the schema: at most 32.
    const FIELDS: &'static [&'static str];
    /// True when exactly one of the fields may be there.
    const ONE_OF: bool;

    /// Reads the value behind `FIELDS[field]`.
    fn read_field<'de, A: MapAccess<'de>>(&mut self, field: usize, map: &mut A) -> Result<(), A::Error>;

    fn write_fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error>;
}

/// Takes what stands behind a field's name.
struct Reading<T> {
    field: &'static str,
    value: PhantomData<T>,
}

impl<T> Reading<T> {
    const fn new(field: &'static str) -> Self {
        Self { field, value: PhantomData }
    }
}

impl<'de, T: Value> DeserializeSeed<'de> for Reading<T> {
    type Value = T;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<T, D::Error> {
        T::read(self.field, json)
    }
}

/// Writes what stands behind a field's name.
struct Write<'a, T>(&'a T);

impl<T: Value> Serialize for Write<'_, T> {
    fn serialize<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        self.0.write(json)
    }
}

impl<T: Object> Value for T {
    fn read<'de, D: Deserializer<'de>>(field: &'static str, json: D) -> Result<Self, D::Error> {
        struct Fields<T>(Reading<T>);

        impl<'de, T: Object> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an object for `{}`", self.0.field)
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
                const { assert!(T::FIELDS.len() <= 32, "one bit per field") };
                let mut object = T::default();
                let mut seen = 0u32;
                while let Some(field) = map.next_key_seed(Name::<T>(PhantomData))? {
                    let name = T::FIELDS[field];
                    if seen & (1 << field) != 0 {
                        return Err(A::Error::custom(format_args!("the field `{name}` comes twice")));
                    }
                    if T::ONE_OF && seen != 0 {
                        return Err(A::Error::custom(format_args!(
                            "`{}` and `{name}` together: exactly one of {} is allowed",
                            T::FIELDS[seen.trailing_zeros() as usize],
                            OneOf(T::FIELDS)
                        )));
                    }
                    seen |= 1 << field;
                    object.read_field(field, &mut map)?;
                }
                Ok(object)
            }
        }

        json.deserialize_map(Fields(Reading::new(field)))
    }

    fn write<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        let mut map = json.serialize_map(None)?;
        self.write_fields(&mut map)?;
        map.end()
    }
}

/// A field's name, as its position in `T::FIELDS`.
struct Name<T>(PhantomData<T>);

impl<'de, T: Object> DeserializeSeed<'de> for Name<T> {
    type Value = usize;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<usize, D::Error> {
        json.deserialize_identifier(self)
    }
}

impl<T: Object> Visitor<'_> for Name<T> {
    type Value = usize;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<usize, E> {
        T::FIELDS.iter().position(|known| *known == name).ok_or_else(|| {
            // What is allowed must survive the shortening of the message: a long name must not push it out.
            let end = name.char_indices().nth(64).map_or(name.len(), |(end, _)| end);
            E::custom(format_args!("unknown field `{}`, allowed here: {}", &name[..end], OneOf(T::FIELDS)))
        })
    }
}

/// A list of names for people.
struct OneOf(&'static [&'static str]);

impl fmt::Display for OneOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        for (index, name) in self.0.iter().enumerate() {
            write!(f, "{}`{name}`", if index == 0 { "" } else { ", " })?;
        }
        Ok(())
    }
}

impl<T: Object> Value for Option<T> {
    fn read<'de, D: Deserializer<'de>>(field: &'static str, json: D) -> Result<Self, D::Error> {
        T::read(field, json).map(Some)
    }

    fn write<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        match self {
            Some(value) => value.write(json),
            None => json.serialize_none(),
        }
    }

    fn is_present(&self) -> bool {
        self.is_some()
    }
}

impl<T: Object> Value for Vec<T> {
    fn read<'de, D: Deserializer<'de>>(field: &'static str, json: D) -> Result<Self, D::Error> {
        struct Items<T>(Reading<T>);

        impl<'de, T: Object> Visitor<'de> for Items<T> {
            type Value = Vec<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an array of objects for `{}`", self.0.field)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
                let mut read = Vec::new();
                while let Some(item) = items.next_element_seed(Reading::new(self.0.field))? {
                    read.push(item);
                }
                Ok(read)
            }
        }

        json.deserialize_seq(Items(Reading::new(field)))
    }

    fn write<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        json.collect_seq(self.iter().map(Write))
    }
}

impl Value for u64 {
    fn read<'de, D: Deserializer<'de>>(field: &'static str, json: D) -> Result<Self, D::Error> {
        json.deserialize_any(Number { field, max: u64::MAX })
    }

    /// As a string: beyond 2^53 a JavaScript number is another one.
    fn write<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        json.collect_str(self)
    }
}

impl Value for Option<u64> {
    fn read<'de, D: Deserializer<'de>>(field: &'static str, json: D) -> Result<Self, D::Error> {
        u64::read(field, json).map(Some)
    }

    fn write<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        match self {
            Some(value) => value.write(json),
            None => json.serialize_none(),
        }
    }

    fn is_present(&self) -> bool {
        self.is_some()
    }
}

impl Value for Vec<u64> {
    fn read<'de, D: Deserializer<'de>>(field: &'static str, json: D) -> Result<Self, D::Error> {
        struct Numbers(&'static str);

        impl<'de> Visitor<'de> for Numbers {
            type Value = Vec<u64>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "an array of whole numbers for `{}`", self.0)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Vec<u64>, A::Error> {
                let mut read = Vec::new();
                while let Some(item) = items.next_element_seed(Reading::new(self.0))? {
                    read.push(item);
                }
                Ok(read)
            }
        }

        json.deserialize_seq(Numbers(field))
    }

    fn write<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        json.collect_seq(self.iter().map(Write))
    }
}

/// The schema's one enum: by name, and a role of a later version by its number, as protobuf's JSON mapping has it.
impl Value for i32 {
    fn read<'de, D: Deserializer<'de>>(field: &'static str, json: D) -> Result<Self, D::Error> {
        struct RoleName(&'static str);

        impl RoleName {
            fn number<E: de::Error>(&self, number: Option<i32>, was: de::Unexpected<'_>) -> Result<i32, E> {
                number.ok_or_else(|| E::invalid_value(was, self))
            }
        }

        impl Visitor<'_> for RoleName {
            type Value = i32;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "\"MEMBER\", \"ADMIN\" or \"OWNER\" for `{}`", self.0)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<i32, E> {
                let number = Role::from_str_name(text).map(i32::from);
                self.number(number, de::Unexpected::Str(text))
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<i32, E> {
                self.number(i32::try_from(number).ok(), de::Unexpected::Unsigned(number))
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<i32, E> {
                self.number(i32::try_from(number).ok(), de::Unexpected::Signed(number))
            }
        }

        json.deserialize_any(RoleName(field))
    }

    fn write<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        match Role::try_from(*self) {
            Ok(role) => json.serialize_str(role.as_str_name()),
            Err(_) => json.serialize_i32(*self),
        }
    }
}

impl Value for u32 {
    fn read<'de, D: Deserializer<'de>>(field: &'static str, json: D) -> Result<Self, D::Error> {
        let value = json.deserialize_any(Number { field, max: u64::from(u32::MAX) })?;
        Ok(u32::try_from(value).expect("Number keeps to its maximum"))
    }

    fn write<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        json.serialize_u32(*self)
    }
}

/// A whole number, written as a number or as a string of its digits.
struct Number {
    field: &'static str,
    max: u64,
}

impl Visitor<'_> for Number {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a whole number from 0 to {}, or a string of its digits, for `{}`", self.max, self.field)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<u64, E> {
        if value > self.max {
            return Err(E::invalid_value(de::Unexpected::Unsigned(value), &self));
        }
        Ok(value)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
        let canonical = matches!(text.as_bytes(), [b'0'] | [b'1'..=b'9', ..])
            && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(value) if canonical && value <= self.max => Ok(value),
            _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
        }
    }
}

impl Value for bool {
    fn read<'de, D: Deserializer<'de>>(field: &'static str, json: D) -> Result<Self, D::Error> {
        struct Truth(&'static str);

        impl Visitor<'_> for Truth {
            type Value = bool;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "true or false for `{}`", self.0)
            }

            fn visit_bool<E: de::Error>(self, value: bool) -> Result<bool, E> {
                Ok(value)
            }
        }

        json.deserialize_bool(Truth(field))
    }

    fn write<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        json.serialize_bool(*self)
    }
}

impl Value for String {
    fn read<'de, D: Deserializer<'de>>(field: &'static str, json: D) -> Result<Self, D::Error> {
        struct Text(&'static str);

        impl Visitor<'_> for Text {
            type Value = String;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a string for `{}`", self.0)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<String, E> {
                Ok(text.to_owned())
            }
        }

        json.deserialize_str(Text(field))
    }

    fn write<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        json.serialize_str(self)
    }
}

impl Value for Option<String> {
    fn read<'de, D: Deserializer<'de>>(field: &'static str, json: D) -> Result<Self, D::Error> {
        String::read(field, json).map(Some)
    }

    fn write<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        match self {
            Some(text) => text.write(json),
            None => json.serialize_none(),
        }
    }

    fn is_present(&self) -> bool {
        self.is_some()
    }
}

impl Value for Bytes {
    fn read<'de, D: Deserializer<'de>>(field: &'static str, json: D) -> Result<Self, D::Error> {
        struct Base64(&'static str);

        impl Visitor<'_> for Base64 {
            type Value = Bytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a string of base64 for `{}`", self.0)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Bytes, E> {
                // Both alphabets, with or without padding, as protobuf's mapping says; never a mixture.
                let engine = if text.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
                match engine.decode(text) {
                    Ok(bytes) => Ok(Bytes::from(bytes)),
                    Err(error) => {
                        Err(E::custom(format_args!("`{}` must be a string of base64: {error}", self.0)))
                    }
                }
            }
        }

        json.deserialize_str(Base64(field))
    }

    fn write<S: Serializer>(&self, json: S) -> Result<S::Ok, S::Error> {
        json.collect_str(&Base64Display::new(self, &general_purpose::STANDARD))
    }
}

const LENIENT: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::STANDARD, LENIENT);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&base64::alphabet::URL_SAFE, LENIENT);
