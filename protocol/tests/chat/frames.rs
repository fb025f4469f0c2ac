//! Any frame of the schema, for property tests, and the schema itself.

use bytes::Bytes;
use holdfast_protocol::chat::{
    self, Accepted, Ack, AddMembers, Body, ClientFrame, Content, ConversationState, Conversations,
    ConversationsRequest, CreateGroup, Custom, Delete, Deleted, Drain, Edit, Edited, Entry, Error, Event,
    Gap, GroupCreated, GroupMember, GroupRequest, GroupState, Hello, History, HistoryRequest, Leave, Limits,
    Media, MemberLeft, MemberReceipt, MemberRemoved, MembersAdded, Message, Page, Ping, Pong, Read, ReadMark,
    Receipts, ReceiptsRequest, RemoveMember, Rename, Renamed, RoleSet, Send, ServerFrame, SetRole, Snapshot,
    Sync, Typing, UserTyping, Welcome, body, client_frame, content, entry, server_frame,
};
use proptest::prelude::*;
use prost_reflect::DescriptorPool;

/// The schema as its own compiler reads it.
pub(crate) fn schema() -> DescriptorPool {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/proto");
    let descriptors = protox::compile(["holdfast/v1/chat.proto"], [folder]).expect("the schema compiles");
    DescriptorPool::from_file_descriptor_set(descriptors).expect("the schema is complete")
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-zA-Z0-9@:._-]{0,24}",
        1 => any::<String>(),
        // What JSON must escape, and what lies outside the basic plane.
        1 => "[\u{0}-\u{1f}\"\\\\/\u{7f}\u{2028}\u{ffff}\u{1f600}é]{0,12}",
    ]
}

/// All lengths of a varint and of decimals, and the numbers around 2^53 that a double cannot tell apart.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(u64::MAX),
        (0u64..4).prop_map(|n| (1 << 53) + n),
        (0u32..64, any::<u64>()).prop_map(|(shift, n)| n >> shift),
    ]
}

fn small() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0), Just(u32::MAX), (0u32..32, any::<u32>()).prop_map(|(shift, n)| n >> shift)]
}

fn custom() -> impl Strategy<Value = Custom> {
    let data = prop::collection::vec(any::<u8>(), 0..40).prop_map(Bytes::from);
    (text(), data).prop_map(|(content_type, data)| Custom { content_type, data })
}

fn media() -> impl Strategy<Value = Media> {
    (text(), text(), number(), text(), text()).prop_map(|(id, content_type, bytes, name, caption)| Media {
        id,
        content_type,
        bytes,
        name,
        caption,
    })
}

fn content() -> impl Strategy<Value = Content> {
    let kind = prop_oneof![
        text().prop_map(content::Kind::Text),
        custom().prop_map(content::Kind::Custom),
        media().prop_map(content::Kind::Media),
    ];
    prop::option::of(kind).prop_map(|kind| Content { kind })
}

fn users() -> impl Strategy<Value = Vec<u64>> {
    prop::collection::vec(number(), 0..5)
}

/// Those of this version, and any that a later one may have.
fn role() -> impl Strategy<Value = i32> {
    prop_oneof![3 => 0..3i32, 1 => any::<i32>()]
}

fn body() -> impl Strategy<Value = Body> {
    use body::Kind;
    let kind = prop_oneof![
        text().prop_map(Kind::Text),
        custom().prop_map(Kind::Custom),
        media().prop_map(Kind::Media),
        (text(), users(), any::<bool>()).prop_map(|(title, members, open_history)| {
            Kind::GroupCreated(GroupCreated { title, members, open_history })
        }),
        (users(), text()).prop_map(|(users, title)| Kind::MembersAdded(MembersAdded { users, title })),
        number().prop_map(|user| Kind::MemberRemoved(MemberRemoved { user })),
        prop::option::of(number()).prop_map(|new_owner| Kind::MemberLeft(MemberLeft { new_owner })),
        text().prop_map(|title| Kind::Renamed(Renamed { title })),
        (number(), role()).prop_map(|(user, role)| Kind::RoleSet(RoleSet { user, role })),
        (number(), prop::option::of(content()))
            .prop_map(|(seq, content)| Kind::Edited(Edited { seq, content })),
        number().prop_map(|seq| Kind::Deleted(Deleted { seq })),
        small().prop_map(|days| Kind::RetentionSet(chat::RetentionSet { days })),
        Just(Kind::Expired(chat::Expired {})),
    ];
    prop::option::of(kind).prop_map(|kind| Body { kind })
}

fn message() -> impl Strategy<Value = Message> {
    let optional = || prop::option::of(number());
    let changes = (optional(), optional(), optional());
    (text(), number(), number(), number(), text(), text(), number(), prop::option::of(body()), changes)
        .prop_map(
            |(
                conversation,
                seq,
                message_id,
                sender,
                client_id,
                device,
                time_ms,
                body,
                (reply_to, changed_by, ordinal),
            )| {
                Message {
                    conversation,
                    seq,
                    message_id,
                    sender,
                    client_id,
                    device,
                    time_ms,
                    body,
                    reply_to,
                    changed_by,
                    ordinal,
                }
            },
        )
}

pub(crate) fn entry() -> impl Strategy<Value = Entry> {
    let read = (text(), number(), number()).prop_map(|(conversation, up_to, ordinal)| {
        entry::Kind::Read(ReadMark { conversation, up_to, ordinal })
    });
    let kind = prop_oneof![4 => message().prop_map(entry::Kind::Message), 1 => read];
    prop::option::of(kind).prop_map(|kind| Entry { kind })
}

fn event() -> impl Strategy<Value = Event> {
    (number(), prop::option::of(entry())).prop_map(|(rev, entry)| Event { rev, entry })
}

fn people_request() -> impl Strategy<Value = client_frame::Frame> {
    use client_frame::Frame;
    prop_oneof![
        number().prop_map(|user| Frame::Block(chat::Block { user })),
        number().prop_map(|user| Frame::Unblock(chat::Unblock { user })),
        (number(), any::<bool>())
            .prop_map(|(user, contact)| Frame::SetContact(chat::SetContact { user, contact })),
        text().prop_map(|presence| Frame::SetPrivacy(chat::SetPrivacy { presence })),
        (number(), small()).prop_map(|(after, limit)| Frame::People(chat::PeopleRequest { after, limit })),
    ]
}

fn people() -> impl Strategy<Value = chat::People> {
    let person = (number(), any::<bool>(), any::<bool>()).prop_map(|(user, contact, blocked)| chat::Person {
        user,
        contact,
        blocked,
    });
    (text(), prop::collection::vec(person, 0..4), any::<bool>(), any::<bool>())
        .prop_map(|(presence, people, end, changed)| chat::People { presence, people, end, changed })
}

fn group_request() -> impl Strategy<Value = client_frame::Frame> {
    use client_frame::Frame;
    prop_oneof![
        (text(), text(), users(), any::<bool>()).prop_map(|(client_id, title, members, open_history)| {
            Frame::CreateGroup(CreateGroup { client_id, title, members, open_history })
        }),
        (text(), text(), users()).prop_map(|(client_id, conversation, users)| {
            Frame::AddMembers(AddMembers { client_id, conversation, users })
        }),
        (text(), text(), number()).prop_map(|(client_id, conversation, user)| {
            Frame::RemoveMember(RemoveMember { client_id, conversation, user })
        }),
        (text(), text())
            .prop_map(|(client_id, conversation)| Frame::Leave(Leave { client_id, conversation })),
        (text(), text(), text()).prop_map(|(client_id, conversation, title)| {
            Frame::Rename(Rename { client_id, conversation, title })
        }),
        (text(), text(), number(), role()).prop_map(|(client_id, conversation, user, role)| {
            Frame::SetRole(SetRole { client_id, conversation, user, role })
        }),
        (text(), text(), small()).prop_map(|(client_id, conversation, days)| {
            Frame::SetRetention(chat::SetRetention { client_id, conversation, days })
        }),
    ]
}

pub(crate) fn client_frame() -> impl Strategy<Value = ClientFrame> {
    use client_frame::Frame;
    prop_oneof![
        (text(), text(), prop::option::of(number()), any::<bool>()).prop_map(
            |(token, device, cursor, every_entry)| {
                Frame::Hello(Hello { token, device, cursor, every_entry })
            }
        ),
        (text(), small())
            .prop_map(|(after, limit)| Frame::Conversations(ConversationsRequest { after, limit })),
        text().prop_map(|conversation| Frame::Group(GroupRequest { conversation })),
        (text(), text(), prop::option::of(body()), prop::option::of(number())).prop_map(
            |(client_id, conversation, body, reply_to)| {
                Frame::Send(Send { client_id, conversation, body, reply_to })
            }
        ),
        number().prop_map(|rev| Frame::Ack(Ack { rev })),
        (number(), small(), any::<bool>()).prop_map(|(after, limit, every_entry)| Frame::Sync(Sync {
            after,
            limit,
            every_entry
        })),
        number().prop_map(|nonce| Frame::Ping(Ping { nonce })),
        (text(), any::<bool>())
            .prop_map(|(conversation, stopped)| Frame::Typing(Typing { conversation, stopped })),
        (text(), number()).prop_map(|(conversation, up_to)| Frame::Read(Read { conversation, up_to })),
        text().prop_map(|conversation| Frame::Receipts(ReceiptsRequest { conversation })),
        prop::collection::vec(number(), 0..4)
            .prop_map(|users| Frame::WatchPresence(chat::WatchPresence { users })),
        any::<bool>().prop_map(|away| Frame::SetAway(chat::SetAway { away })),
        Just(Frame::Devices(chat::DevicesRequest {})),
        text().prop_map(|device| Frame::RevokeDevice(chat::RevokeDevice { device })),
        group_request(),
        people_request(),
        (text(), text(), number(), prop::option::of(content())).prop_map(
            |(client_id, conversation, seq, content)| Frame::Edit(Edit {
                client_id,
                conversation,
                seq,
                content
            })
        ),
        (text(), text(), number()).prop_map(|(client_id, conversation, seq)| Frame::Delete(Delete {
            client_id,
            conversation,
            seq
        })),
        (text(), prop::option::of(number()), prop::option::of(number()), small()).prop_map(
            |(conversation, before, after, limit)| {
                Frame::History(HistoryRequest { conversation, before, after, limit })
            }
        ),
    ]
    .prop_map(|frame| ClientFrame { frame: Some(frame) })
}

fn conversation_states() -> impl Strategy<Value = Vec<ConversationState>> {
    let messages = prop::collection::vec(message(), 0..3);
    let state = (text(), number(), number(), number(), text(), role(), any::<bool>(), messages).prop_map(
        |(conversation, rev, unread, read, title, role, gone, messages)| ConversationState {
            conversation,
            rev,
            unread,
            read,
            title,
            role,
            gone,
            messages,
        },
    );
    prop::collection::vec(state, 0..3)
}

fn group_state() -> impl Strategy<Value = GroupState> {
    let member =
        (number(), role(), number()).prop_map(|(user, role, joined)| GroupMember { user, role, joined });
    let members = prop::collection::vec(member, 0..3);
    (text(), text(), any::<bool>(), members, number(), small()).prop_map(
        |(conversation, title, open_history, members, seq, retention_days)| GroupState {
            conversation,
            title,
            open_history,
            members,
            seq,
            retention_days,
        },
    )
}

fn user_presence() -> impl Strategy<Value = chat::UserPresence> {
    (number(), any::<bool>(), any::<bool>(), prop::option::of(number())).prop_map(
        |(user, online, away, last_seen_ms)| chat::UserPresence { user, online, away, last_seen_ms },
    )
}

fn device_state() -> impl Strategy<Value = chat::DeviceState> {
    (text(), any::<bool>(), any::<bool>(), prop::option::of(number()), number()).prop_map(
        |(device, online, current, last_seen_ms, cursor)| chat::DeviceState {
            device,
            online,
            current,
            last_seen_ms,
            cursor,
        },
    )
}

pub(crate) fn server_frame() -> impl Strategy<Value = ServerFrame> {
    use server_frame::Frame;
    let limits = (small(), small(), small(), small()).prop_map(
        |(message_bytes, page_entries, send_per_second, send_burst)| Limits {
            message_bytes,
            page_entries,
            send_per_second,
            send_burst,
        },
    );
    let welcome =
        (number(), number(), text(), small(), number(), number(), prop::option::of(limits), number())
            .prop_map(|(session, user, device, heartbeat_ms, cursor, head, limits, server_time_ms)| {
                Welcome { session, user, device, heartbeat_ms, cursor, head, limits, server_time_ms }
            });
    prop_oneof![
        welcome.prop_map(Frame::Welcome),
        (text(), number(), number(), prop::option::of(text())).prop_map(
            |(client_id, message_id, seq, conversation)| Frame::Accepted(Accepted {
                client_id,
                message_id,
                seq,
                conversation
            })
        ),
        event().prop_map(Frame::Event),
        (prop::collection::vec(event(), 0..4), number(), any::<bool>())
            .prop_map(|(events, head, live)| Frame::Page(Page { events, head, live })),
        (number(), number(), text()).prop_map(|(from, to, why)| Frame::Gap(Gap { from, to, why })),
        (small(), text()).prop_map(|(after_ms, to)| Frame::Drain(Drain { after_ms, to })),
        (text(), text(), small(), text()).prop_map(|(code, message, retry_after_ms, client_id)| {
            Frame::Error(Error { code, message, retry_after_ms, client_id })
        }),
        number().prop_map(|nonce| Frame::Pong(Pong { nonce })),
        (text(), number(), any::<bool>()).prop_map(|(conversation, user, stopped)| {
            Frame::Typing(UserTyping { conversation, user, stopped })
        }),
        (text(), prop::collection::vec((number(), number(), number()), 0..4)).prop_map(
            |(conversation, members)| {
                let member = |(user, read, delivered)| MemberReceipt { user, read, delivered };
                let members = members.into_iter().map(member).collect();
                Frame::Receipts(Receipts { conversation, members })
            }
        ),
        prop::collection::vec(user_presence(), 0..4)
            .prop_map(|users| Frame::Presence(chat::Presence { users })),
        prop::collection::vec(device_state(), 0..4)
            .prop_map(|devices| Frame::Devices(chat::Devices { devices })),
        people().prop_map(Frame::People),
        (conversation_states(), number(), any::<bool>()).prop_map(|(conversations, rev, end)| {
            Frame::Conversations(Conversations { conversations, rev, end })
        }),
        (conversation_states(), number(), any::<bool>())
            .prop_map(|(conversations, rev, end)| Frame::Snapshot(Snapshot { conversations, rev, end })),
        group_state().prop_map(Frame::Group),
        (text(), prop::collection::vec(message(), 0..4), number(), any::<bool>()).prop_map(
            |(conversation, messages, head, end)| {
                Frame::History(History { conversation, messages, head, end })
            }
        ),
    ]
    .prop_map(|frame| ServerFrame { frame: Some(frame) })
}
