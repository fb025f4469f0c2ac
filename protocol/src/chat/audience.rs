//! Who may see something of a user's.

use super::LimitError;

/// Who may see a user's presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Audience {
    /// Whoever the user has not blocked.
    #[default]
    Everyone,
    /// Whom the user counts among the contacts and has not blocked.
    Contacts,
    /// Only the user's own devices.
    Nobody,
}

impl Audience {
    /// What the protocol calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Everyone => "everyone",
            Self::Contacts => "contacts",
            Self::Nobody => "nobody",
        }
    }

    /// The one that the protocol calls so.
    ///
    /// # Errors
    /// When there is none.
    pub fn from_name(name: &str) -> Result<Self, LimitError> {
        [Self::Everyone, Self::Contacts, Self::Nobody]
            .into_iter()
            .find(|audience| audience.name() == name)
            .ok_or_else(|| LimitError::Privacy { audience: name.chars().take(32).collect() })
    }
}
