//! What the fields of a client's frames may hold, so that servers and clients agree.
//!
//! Decoding checks shapes; this checks values. Limits that a server may configure are arguments.

use super::{Body, Content, Custom, Media, body, content, error_code};
use crate::id::UserId;

/// Bytes of a `clientId`, at least 1.
pub const CLIENT_ID_BYTES_MAX: usize = 64;
/// Characters of a device's name, at least 1.
pub const DEVICE_BYTES_MAX: usize = 64;
/// Characters of a content type, at least 1.
pub const CONTENT_TYPE_BYTES_MAX: usize = 255;
/// Bytes of a body, unless the server's `welcome` says otherwise.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
/// Entries of a page, unless the server's `welcome` says otherwise.
pub const PAGE_ENTRIES_MAX: u32 = 1_000;
/// Characters of a media's id, at least 1.
pub const MEDIA_ID_BYTES_MAX: usize = 128;
/// Bytes of a media's name.
pub const MEDIA_NAME_BYTES_MAX: usize = 255;
/// Bytes of a group's title, at least 1.
pub const TITLE_BYTES_MAX: usize = 128;
/// Members of a group, unless the server is told otherwise.
pub const GROUP_MEMBERS_MAX: u32 = 500;
/// Messages of one answer to `history`, unless the server is told otherwise.
pub const HISTORY_MESSAGES_MAX: u32 = 200;
/// Messages of an answer to a `history` that does not say how many.
pub const HISTORY_MESSAGES: u32 = 50;

/// Conversations of one answer to `conversations`.
pub const LIST_CONVERSATIONS_MAX: u32 = 200;
/// Contacts and blocked users that a list has at most.
pub const PEOPLE_MAX: u32 = 1_000;
/// Conversations of an answer to a `conversations` that does not say how many.
pub const LIST_CONVERSATIONS: u32 = 100;

/// Days for which a group keeps what is written in it, at the most: a hundred years.
pub const RETENTION_DAYS_MAX: u32 = 36_500;

/// Users whose presence one session watches, unless the server is told otherwise.
pub const WATCHED_USERS_MAX: u32 = 500;

/// Why a field's value is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// Empty or too long.
    #[error("a clientId has 1 to {CLIENT_ID_BYTES_MAX} bytes, this one has {bytes}")]
    ClientId {
        /// Its length.
        bytes: usize,
    },
    /// Empty, too long, or with another character.
    #[error(
        "a device's name is 1 to {DEVICE_BYTES_MAX} of A-Z a-z 0-9 . _ -, this one has {bytes} bytes{}",
        other(*.first_other)
    )]
    Device {
        /// Its length.
        bytes: usize,
        /// The first character that is not allowed.
        first_other: Option<char>,
    },
    /// No body, a body without a kind, or a text without a character.
    #[error("a message needs a body: a text that is not empty, or custom data with its content type")]
    EmptyBody,
    /// More than the session allows.
    #[error("a body has at most {max} bytes, this one has {bytes}")]
    BodyTooLarge {
        /// Its length.
        bytes: usize,
        /// What is allowed.
        max: usize,
    },
    /// Empty, too long, or not printable ASCII.
    #[error(
        "a content type is 1 to {CONTENT_TYPE_BYTES_MAX} printable ASCII characters, this one has {bytes} bytes{}",
        other(*.first_other)
    )]
    ContentType {
        /// Its length.
        bytes: usize,
        /// The first character that is not allowed.
        first_other: Option<char>,
    },
    /// A body that only a server writes.
    #[error("only a server writes such a body; send a text, custom data or media")]
    ServerBody,
    /// Empty, too long, or with another character.
    #[error(
        "a media's id is 1 to {MEDIA_ID_BYTES_MAX} of A-Z a-z 0-9 . _ -, this one has {bytes} bytes{}",
        other(*.first_other)
    )]
    MediaId {
        /// Its length.
        bytes: usize,
        /// The first character that is not allowed.
        first_other: Option<char>,
    },
    /// Too long.
    #[error("a media's name has at most {MEDIA_NAME_BYTES_MAX} bytes, this one has {bytes}")]
    MediaName {
        /// Its length.
        bytes: usize,
    },
    /// Empty or too long.
    #[error("a group's title has 1 to {TITLE_BYTES_MAX} bytes, this one has {bytes}")]
    Title {
        /// Its length.
        bytes: usize,
    },
    /// Nobody's id, or the same one twice.
    #[error("user {user} stands in the list {}", if .user.0 == 0 { "and is nobody; users are numbered from 1" } else { "twice" })]
    Members {
        /// Which.
        user: UserId,
    },
    /// Nobody.
    #[error("name at least one user")]
    NoMembers,
    /// More than a group may have.
    #[error("a group has at most {max} members, its owner included; this list would make {members}")]
    TooManyMembers {
        /// How many it would have.
        members: usize,
        /// What is allowed.
        max: u32,
    },
    /// More than a session may watch.
    #[error("a session watches the presence of at most {max} users, this list has {users}")]
    TooManyWatched {
        /// How many there are.
        users: usize,
        /// What is allowed.
        max: u32,
    },
    /// Nobody's id, or one's own.
    #[error("user {user} {}", if .user.0 == 0 { "is nobody; users are numbered from 1" } else { "is yourself; name somebody else" })]
    User {
        /// Which.
        user: UserId,
    },
    /// Not known.
    #[error("presence may be seen by \"everyone\", \"contacts\" or \"nobody\", not by {audience:?}")]
    Privacy {
        /// The beginning of what was asked for.
        audience: String,
    },
    /// More people than the server gives at once.
    #[error("a list has at most {PEOPLE_MAX} people at once, {limit} were asked for")]
    PeopleLimit {
        /// What was asked for.
        limit: u32,
    },
    /// None of the roles.
    #[error("role {role} is none; a member has role 0, an admin 1, an owner 2")]
    Role {
        /// What was asked for.
        role: i32,
    },
    /// Longer than anybody keeps anything.
    #[error(
        "a group keeps messages for 1 to {RETENTION_DAYS_MAX} days, or as long as the server does (0), not for {days}"
    )]
    Retention {
        /// What was asked for.
        days: u32,
    },
    /// Both directions at once.
    #[error("a history goes `before` a message or `after` one, not both")]
    TwoDirections,
    /// More messages than the server gives at once.
    #[error("a history has at most {max} messages at once, {limit} were asked for")]
    HistoryLimit {
        /// What was asked for.
        limit: u32,
        /// What is allowed.
        max: u32,
    },
    /// More conversations than the server gives at once.
    #[error("a list has at most {LIST_CONVERSATIONS_MAX} conversations at once, {limit} were asked for")]
    ListLimit {
        /// What was asked for.
        limit: u32,
    },
    /// More entries per page than the session allows.
    #[error("a page has at most {max} entries, {limit} were asked for")]
    PageLimit {
        /// What was asked for.
        limit: u32,
        /// What is allowed.
        max: u32,
    },
}

impl LimitError {
    /// The code of the `error` frame that reports it.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::ClientId { .. } => error_code::BAD_CLIENT_ID,
            Self::Device { .. } => error_code::BAD_DEVICE,
            Self::EmptyBody | Self::ServerBody => error_code::BAD_BODY,
            Self::MediaId { .. } | Self::MediaName { .. } => error_code::BAD_MEDIA,
            Self::Title { .. } => error_code::BAD_TITLE,
            Self::Members { .. } | Self::NoMembers => error_code::BAD_MEMBERS,
            Self::TooManyMembers { .. } => error_code::TOO_MANY_MEMBERS,
            Self::TooManyWatched { .. } => error_code::TOO_MANY_WATCHED,
            Self::Role { .. } => error_code::BAD_ROLE,
            Self::Retention { .. } => error_code::BAD_RETENTION,
            Self::User { .. } => error_code::BAD_USER,
            Self::Privacy { .. } => error_code::BAD_PRIVACY,
            Self::PeopleLimit { .. } => error_code::BAD_LIMIT,
            Self::TwoDirections | Self::HistoryLimit { .. } | Self::ListLimit { .. } => error_code::BAD_LIMIT,
            Self::BodyTooLarge { .. } => error_code::MESSAGE_TOO_LARGE,
            Self::ContentType { .. } => error_code::BAD_CONTENT_TYPE,
            Self::PageLimit { .. } => error_code::BAD_LIMIT,
        }
    }
}

/// Checks a `clientId`.
///
/// # Errors
/// When it is empty or longer than [`CLIENT_ID_BYTES_MAX`].
pub fn check_client_id(client_id: &str) -> Result<(), LimitError> {
    match client_id.len() {
        1..=CLIENT_ID_BYTES_MAX => Ok(()),
        bytes => Err(LimitError::ClientId { bytes }),
    }
}

/// Checks a device's name.
///
/// # Errors
/// When it is empty, longer than [`DEVICE_BYTES_MAX`], or has a character that is not allowed.
pub fn check_device(name: &str) -> Result<(), LimitError> {
    let first_other = name.chars().find(|c| !is_name_character(*c));
    match name.len() {
        1..=DEVICE_BYTES_MAX if first_other.is_none() => Ok(()),
        bytes => Err(LimitError::Device { bytes, first_other }),
    }
}

/// Checks what a message says. `bytes_max` is the session's limit, [`BODY_BYTES_MAX`] by default.
///
/// # Errors
/// When there is nothing in it, only a server may say it, its content type is not one, or it is too large.
pub fn check_body(body: Option<&Body>, bytes_max: usize) -> Result<(), LimitError> {
    match body.and_then(|body| body.kind.as_ref()).ok_or(LimitError::EmptyBody)? {
        body::Kind::Text(text) => check_text(text, bytes_max),
        body::Kind::Custom(custom) => check_custom(custom, bytes_max),
        body::Kind::Media(media) => check_media(media, bytes_max),
        body::Kind::GroupCreated(_)
        | body::Kind::MembersAdded(_)
        | body::Kind::MemberRemoved(_)
        | body::Kind::MemberLeft(_)
        | body::Kind::Renamed(_)
        | body::Kind::RoleSet(_)
        | body::Kind::Edited(_)
        | body::Kind::Deleted(_)
        | body::Kind::RetentionSet(_)
        | body::Kind::Expired(_) => Err(LimitError::ServerBody),
    }
}

/// Checks what an edited message is to say.
///
/// # Errors
/// As [`check_body`].
pub fn check_content(content: Option<&Content>, bytes_max: usize) -> Result<(), LimitError> {
    match content.and_then(|content| content.kind.as_ref()).ok_or(LimitError::EmptyBody)? {
        content::Kind::Text(text) => check_text(text, bytes_max),
        content::Kind::Custom(custom) => check_custom(custom, bytes_max),
        content::Kind::Media(media) => check_media(media, bytes_max),
    }
}

fn check_text(text: &str, bytes_max: usize) -> Result<(), LimitError> {
    if text.is_empty() {
        return Err(LimitError::EmptyBody);
    }
    check_size(text.len(), bytes_max)
}

fn check_custom(custom: &Custom, bytes_max: usize) -> Result<(), LimitError> {
    check_content_type(&custom.content_type)?;
    check_size(custom.data.len(), bytes_max)
}

fn check_media(media: &Media, bytes_max: usize) -> Result<(), LimitError> {
    let first_other = media.id.chars().find(|c| !is_name_character(*c));
    if media.id.is_empty() || media.id.len() > MEDIA_ID_BYTES_MAX || first_other.is_some() {
        return Err(LimitError::MediaId { bytes: media.id.len(), first_other });
    }
    if media.name.len() > MEDIA_NAME_BYTES_MAX {
        return Err(LimitError::MediaName { bytes: media.name.len() });
    }
    check_content_type(&media.content_type)?;
    check_size(media.caption.len(), bytes_max)
}

fn check_size(bytes: usize, max: usize) -> Result<(), LimitError> {
    if bytes > max { Err(LimitError::BodyTooLarge { bytes, max }) } else { Ok(()) }
}

/// Checks a group's title.
///
/// # Errors
/// When it is empty or longer than [`TITLE_BYTES_MAX`].
pub fn check_title(title: &str) -> Result<(), LimitError> {
    match title.len() {
        1..=TITLE_BYTES_MAX => Ok(()),
        bytes => Err(LimitError::Title { bytes }),
    }
}

/// Checks for how many days a group is to keep messages.
///
/// # Errors
/// When it is more than [`RETENTION_DAYS_MAX`].
pub fn check_retention(days: u32) -> Result<(), LimitError> {
    if days > RETENTION_DAYS_MAX { Err(LimitError::Retention { days }) } else { Ok(()) }
}

/// Checks a list of users to be members of a group that has `present` already; `max` is [`GROUP_MEMBERS_MAX`] by
/// default. Gives them in the order of their numbers.
///
/// # Errors
/// When a user stands there twice, is nobody, or there would be too many.
pub fn check_members(users: &[u64], present: usize, max: u32) -> Result<Vec<UserId>, LimitError> {
    let members = users.len() + present;
    if members > max as usize {
        return Err(LimitError::TooManyMembers { members, max });
    }
    sorted_users(users)
}

/// Checks a list of users to be watched; `max` is [`WATCHED_USERS_MAX`] by default. Gives them in the order of their
/// numbers.
///
/// # Errors
/// When a user stands there twice, is nobody, or there are too many.
pub fn check_watched(users: &[u64], max: u32) -> Result<Vec<UserId>, LimitError> {
    if users.len() > max as usize {
        return Err(LimitError::TooManyWatched { users: users.len(), max });
    }
    sorted_users(users)
}

fn sorted_users(users: &[u64]) -> Result<Vec<UserId>, LimitError> {
    let mut sorted: Vec<UserId> = users.iter().map(|&user| UserId(user)).collect();
    sorted.sort_unstable();
    let twice = sorted.windows(2).find(|pair| pair[0] == pair[1]).map(|pair| pair[0]);
    match sorted.first().copied().filter(|first| first.0 == 0).or(twice) {
        Some(user) => Err(LimitError::Members { user }),
        None => Ok(sorted),
    }
}

/// Checks how many messages a `history` asks for and gives the number to use: 0 means [`HISTORY_MESSAGES`].
///
/// # Errors
/// When it is more than `max`.
pub fn check_history_limit(limit: u32, max: u32) -> Result<u32, LimitError> {
    match limit {
        0 => Ok(HISTORY_MESSAGES.min(max)),
        limit if limit <= max => Ok(limit),
        limit => Err(LimitError::HistoryLimit { limit, max }),
    }
}

/// Checks how many conversations are asked for and gives the number to use: 0 means [`LIST_CONVERSATIONS`].
///
/// # Errors
/// When it is more than [`LIST_CONVERSATIONS_MAX`].
pub fn check_list_limit(limit: u32) -> Result<u32, LimitError> {
    match limit {
        0 => Ok(LIST_CONVERSATIONS),
        limit if limit <= LIST_CONVERSATIONS_MAX => Ok(limit),
        limit => Err(LimitError::ListLimit { limit }),
    }
}

/// Checks how many people are asked for and gives the number to use: 0 means [`PEOPLE_MAX`].
///
/// # Errors
/// When it is more than [`PEOPLE_MAX`].
pub fn check_people_limit(limit: u32) -> Result<u32, LimitError> {
    match limit {
        0 => Ok(PEOPLE_MAX),
        limit if limit <= PEOPLE_MAX => Ok(limit),
        limit => Err(LimitError::PeopleLimit { limit }),
    }
}

/// Checks that a user is somebody, and somebody else.
///
/// # Errors
/// When it is nobody's id, or `me`.
pub fn check_other(user: u64, me: UserId) -> Result<UserId, LimitError> {
    match UserId(user) {
        user if user.0 == 0 || user == me => Err(LimitError::User { user }),
        user => Ok(user),
    }
}

/// Checks the entries per page that a `sync` asks for and gives the number to use: 0 means as many as allowed.
///
/// # Errors
/// When it is more than `max`.
pub fn check_page_limit(limit: u32, max: u32) -> Result<u32, LimitError> {
    match limit {
        0 => Ok(max),
        limit if limit <= max => Ok(limit),
        limit => Err(LimitError::PageLimit { limit, max }),
    }
}

fn check_content_type(content_type: &str) -> Result<(), LimitError> {
    let first_other = content_type.chars().find(|c| !matches!(c, ' '..='~'));
    match content_type.len() {
        1..=CONTENT_TYPE_BYTES_MAX if first_other.is_none() => Ok(()),
        bytes => Err(LimitError::ContentType { bytes, first_other }),
    }
}

fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

fn other(character: Option<char>) -> String {
    character.map_or_else(String::new, |character| format!(" and a {character:?}"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::chat::Custom;

    fn text(bytes: usize) -> Body {
        Body { kind: Some(body::Kind::Text("x".repeat(bytes))) }
    }

    fn custom(content_type: &str, bytes: usize) -> Body {
        let data = Bytes::from(vec![0; bytes]);
        Body { kind: Some(body::Kind::Custom(Custom { content_type: content_type.to_owned(), data })) }
    }

    fn code<T>(checked: Result<T, LimitError>) -> Option<&'static str> {
        checked.err().map(|error| error.code())
    }

    #[test]
    fn client_ids_from_both_sides() {
        for (bytes, refused) in [(0, true), (1, false), (64, false), (65, true)] {
            assert_eq!(check_client_id(&"x".repeat(bytes)).is_err(), refused, "{bytes} bytes");
        }
        // Bytes, not characters.
        assert!(check_client_id(&"é".repeat(32)).is_ok());
        assert_eq!(code(check_client_id(&"é".repeat(33))), Some(error_code::BAD_CLIENT_ID));
    }

    #[test]
    fn device_names_from_both_sides() {
        for (bytes, refused) in [(0, true), (1, false), (64, false), (65, true)] {
            assert_eq!(check_device(&"x".repeat(bytes)).is_err(), refused, "{bytes} bytes");
        }
        assert!(check_device("Work-Phone_2.0").is_ok());
        for name in ["my phone", "phone/1", "téléphone", "a\n", "a\0"] {
            assert_eq!(code(check_device(name)), Some(error_code::BAD_DEVICE), "{name:?}");
        }
        assert_eq!(
            check_device("my phone").expect_err("a space").to_string(),
            "a device's name is 1 to 64 of A-Z a-z 0-9 . _ -, this one has 8 bytes and a ' '"
        );
    }

    #[test]
    fn bodies_from_both_sides() {
        assert!(check_body(Some(&text(1)), 100).is_ok());
        assert!(check_body(Some(&text(100)), 100).is_ok());
        assert_eq!(code(check_body(Some(&text(101)), 100)), Some(error_code::MESSAGE_TOO_LARGE));
        assert_eq!(code(check_body(Some(&text(0)), 100)), Some(error_code::BAD_BODY));
        assert_eq!(code(check_body(Some(&Body { kind: None }), 100)), Some(error_code::BAD_BODY));
        assert_eq!(code(check_body(None, 100)), Some(error_code::BAD_BODY));
        assert!(check_body(Some(&custom("a/b", 0)), 100).is_ok());
        assert!(check_body(Some(&custom("a/b", 100)), 100).is_ok());
        assert_eq!(code(check_body(Some(&custom("a/b", 101)), 100)), Some(error_code::MESSAGE_TOO_LARGE));
    }

    #[test]
    fn a_client_cannot_speak_for_the_server() {
        let deleted = body::Kind::Deleted(crate::chat::Deleted { seq: 1 });
        assert_eq!(check_body(Some(&Body { kind: Some(deleted) }), 100), Err(LimitError::ServerBody));
    }

    #[test]
    fn contents_from_both_sides() {
        let content = |text: &str| Content { kind: Some(content::Kind::Text(text.to_owned())) };
        assert!(check_content(Some(&content("x")), 1).is_ok());
        assert_eq!(code(check_content(Some(&content("xx")), 1)), Some(error_code::MESSAGE_TOO_LARGE));
        assert_eq!(code(check_content(Some(&content("")), 1)), Some(error_code::BAD_BODY));
        assert_eq!(code(check_content(None, 1)), Some(error_code::BAD_BODY));
    }

    #[test]
    fn media_from_both_sides() {
        let media = |id: usize, name: usize, caption: usize| {
            let media = Media {
                id: "x".repeat(id),
                content_type: "image/png".to_owned(),
                bytes: 7,
                name: "x".repeat(name),
                caption: "x".repeat(caption),
            };
            check_body(Some(&Body { kind: Some(body::Kind::Media(media)) }), 100)
        };
        assert!(media(1, 0, 0).is_ok() && media(128, 255, 100).is_ok());
        assert_eq!(code(media(0, 0, 0)), Some(error_code::BAD_MEDIA));
        assert_eq!(code(media(129, 0, 0)), Some(error_code::BAD_MEDIA));
        assert_eq!(code(media(1, 256, 0)), Some(error_code::BAD_MEDIA));
        assert_eq!(code(media(1, 0, 101)), Some(error_code::MESSAGE_TOO_LARGE));
    }

    #[test]
    fn titles_from_both_sides() {
        for (bytes, refused) in [(0, true), (1, false), (128, false), (129, true)] {
            assert_eq!(check_title(&"x".repeat(bytes)).is_err(), refused, "{bytes} bytes");
        }
    }

    #[test]
    fn members_from_both_sides() {
        assert_eq!(check_members(&[3, 1], 1, 3), Ok(vec![UserId(1), UserId(3)]));
        assert_eq!(code(check_members(&[3, 1], 2, 3)), Some(error_code::TOO_MANY_MEMBERS));
        assert_eq!(code(check_members(&[3, 1, 3], 0, 3)), Some(error_code::BAD_MEMBERS));
        let nobody = check_members(&[3, 0], 0, 3).expect_err("user 0");
        assert_eq!(nobody.to_string(), "user 0 stands in the list and is nobody; users are numbered from 1");
    }

    #[test]
    fn history_limits_from_both_sides() {
        for (limit, used) in [(0, Ok(50)), (1, Ok(1)), (200, Ok(200))] {
            assert_eq!(check_history_limit(limit, HISTORY_MESSAGES_MAX), used);
        }
        assert_eq!(check_history_limit(0, 20), Ok(20));
        assert_eq!(code(check_history_limit(201, HISTORY_MESSAGES_MAX)), Some(error_code::BAD_LIMIT));
    }

    #[test]
    fn list_limits_from_both_sides() {
        for (limit, used) in [(0, Ok(100)), (1, Ok(1)), (200, Ok(200))] {
            assert_eq!(check_list_limit(limit), used);
        }
        assert_eq!(code(check_list_limit(201)), Some(error_code::BAD_LIMIT));
        for (limit, used) in [(0, 1_000), (1, 1), (1_000, 1_000)] {
            assert_eq!(check_people_limit(limit), Ok(used));
        }
        assert_eq!(code(check_people_limit(1_001)), Some(error_code::BAD_LIMIT));
    }

    #[test]
    fn content_types_from_both_sides() {
        for (bytes, refused) in [(0, true), (1, false), (255, false), (256, true)] {
            let body = custom(&"x".repeat(bytes), 1);
            assert_eq!(check_body(Some(&body), 100).is_err(), refused, "{bytes} bytes");
        }
        for content_type in ["text/é", "text/\n", "a\u{7f}"] {
            let checked = check_body(Some(&custom(content_type, 1)), 100);
            assert_eq!(code(checked), Some(error_code::BAD_CONTENT_TYPE), "{content_type:?}");
        }
    }

    #[test]
    fn page_limits_from_both_sides() {
        for (limit, used) in [(0, Ok(1_000)), (1, Ok(1)), (1_000, Ok(1_000))] {
            assert_eq!(check_page_limit(limit, PAGE_ENTRIES_MAX), used);
        }
        assert_eq!(code(check_page_limit(1_001, PAGE_ENTRIES_MAX)), Some(error_code::BAD_LIMIT));
    }

    #[test]
    fn others_are_somebody_and_not_oneself() {
        let me = UserId(42);
        assert_eq!(check_other(43, me), Ok(UserId(43)));
        for user in [0, 42] {
            assert_eq!(code(check_other(user, me)), Some(error_code::BAD_USER));
        }
        for name in ["everyone", "contacts", "nobody"] {
            assert_eq!(crate::chat::Audience::from_name(name).map(crate::chat::Audience::name), Ok(name));
        }
        assert_eq!(code(crate::chat::Audience::from_name("friends")), Some(error_code::BAD_PRIVACY));
    }
}
