//! Who the members are: users of a Holdfast server, each with a token, and what the server says to them.

use std::sync::Arc;

use holdfast_protocol::chat::{self, ClientFrame, Format, Hello, client_frame};
use holdfast_protocol::ws::Opcode;

use crate::token::{Mint, TokenError, user_of};

/// Where tokens come from.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// Minted as they are needed, for users numbered from `first_user`.
    Mint {
        /// The mint.
        mint: Mint,
        /// The user of member 0.
        first_user: u64,
    },
    /// Given by hand, one for each member.
    Given(Arc<[(u64, String)]>),
}

/// The name of the generator's device: each user has this one.
pub const DEVICE: &str = "load";

impl Credentials {
    /// Tokens given by hand.
    ///
    /// # Errors
    /// When one of them names no user.
    pub fn given(tokens: impl IntoIterator<Item = String>) -> Result<Self, TokenError> {
        let named: Result<Vec<(u64, String)>, TokenError> =
            tokens.into_iter().map(|token| Ok((user_of(&token)?, token))).collect();
        Ok(Self::Given(named?.into()))
    }

    /// How many members they are for; `None`: any number.
    #[must_use]
    pub fn members(&self) -> Option<usize> {
        match self {
            Self::Mint { .. } => None,
            Self::Given(tokens) => Some(tokens.len()),
        }
    }

    /// The user that a member is.
    #[must_use]
    pub fn user(&self, member: u32) -> u64 {
        match self {
            Self::Mint { first_user, .. } => first_user + u64::from(member),
            Self::Given(tokens) => tokens.get(member as usize).map_or(0, |(user, _)| *user),
        }
    }

    /// Appends a member's token.
    pub fn write(&self, member: u32, out: &mut String) {
        match self {
            Self::Mint { mint, .. } => mint.write(self.user(member), DEVICE, out),
            Self::Given(tokens) => {
                if let Some((_, token)) = tokens.get(member as usize) {
                    out.push_str(token);
                }
            }
        }
    }
}

/// How members log in, and in which format they speak.
#[derive(Debug, Clone)]
pub struct Login {
    /// Who they are.
    pub credentials: Credentials,
    /// Protobuf or JSON.
    pub format: Format,
    /// Say who is there by the first frame rather than in the handshake.
    pub by_hello: bool,
}

impl Login {
    /// The kind of message that carries this format.
    #[must_use]
    pub const fn opcode(&self) -> Opcode {
        match self.format {
            Format::Json => Opcode::Text,
            Format::Protobuf => Opcode::Binary,
        }
    }

    /// Encodes the frame that says who a member is and what it has.
    pub fn hello(&self, member: u32, cursor: Option<u64>, out: &mut Vec<u8>) {
        let mut token = String::new();
        self.credentials.write(member, &mut token);
        let hello = Hello { token, device: DEVICE.into(), cursor, every_entry: true };
        self.encode(client_frame::Frame::Hello(hello), out);
    }

    /// Encodes a frame.
    pub fn encode(&self, frame: client_frame::Frame, out: &mut Vec<u8>) {
        out.clear();
        chat::encode_client(self.format, &ClientFrame { frame: Some(frame) }, out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minted_users_are_numbered_and_given_ones_are_read() {
        let mint = Mint::new(&[7; 32], 1_000, 60);
        let minted = Credentials::Mint { mint, first_user: 100 };
        let mut token = String::new();
        minted.write(5, &mut token);
        assert_eq!((minted.user(5), user_of(&token).unwrap()), (105, 105));
        let given = Credentials::given([token.clone()]).unwrap();
        let mut again = String::new();
        given.write(0, &mut again);
        assert_eq!((given.user(0), given.members(), &again), (105, Some(1), &token));
        assert!(Credentials::given(["x".to_owned()]).is_err());
    }
}
