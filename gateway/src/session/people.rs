//! What others are to the user: contacts, blocks, and who may see the user's presence.

use holdfast_protocol::chat::{self, Audience, LimitError, client_frame, server_frame};
use holdfast_protocol::id::UserId;
use holdfast_router::Key;
use holdfast_storage::command::{
    ChangePeople, Command, PeopleChange, PeopleList, PeopleRequest, SessionAddress,
};

use super::{Context, Outcome, Session};

/// Of a person in a list, at most, as JSON.
const PERSON_BYTES: usize = 80;

impl Session {
    /// `block`, `unblock`, `setContact`, `setPrivacy` and `people`.
    pub(super) fn handle_people_frame(
        &mut self,
        frame: &client_frame::Frame,
        session: SessionAddress,
        context: &mut Context<'_>,
    ) -> Outcome {
        match self.people_command(frame, session) {
            Ok(Some(command)) => Outcome::Submit(Key::User(self.user), command),
            Ok(None) => Outcome::Nothing,
            Err(error) => {
                self.write_error(context, error.code(), &error.to_string(), 0, "");
                Outcome::Nothing
            }
        }
    }

    fn people_command(
        &self,
        frame: &client_frame::Frame,
        session: SessionAddress,
    ) -> Result<Option<Command>, LimitError> {
        use client_frame::Frame;
        let user = self.user;
        let other = |other: u64| chat::check_other(other, user);
        let change = match frame {
            Frame::Block(block) => PeopleChange::Block(other(block.user)?, true),
            Frame::Unblock(unblock) => PeopleChange::Block(other(unblock.user)?, false),
            Frame::SetContact(set) => PeopleChange::Contact(other(set.user)?, set.contact),
            Frame::SetPrivacy(set) => PeopleChange::Presence(Audience::from_name(&set.presence)?),
            Frame::People(request) => {
                let limit = chat::check_people_limit(request.limit)?;
                let request = PeopleRequest { user, session, after: UserId(request.after), limit };
                return Ok(Some(Command::People(request)));
            }
            _ => return Ok(None),
        };
        Ok(Some(Command::ChangePeople(ChangePeople { user, session, change })))
    }

    pub(super) fn handle_people(&mut self, list: PeopleList, context: &mut Context<'_>) {
        if list.asked {
            if !self.has_room(PERSON_BYTES * list.people.len(), context) {
                return;
            }
        } else if context.unsent_bytes > context.rules.output_bytes / 2 {
            // Half of the room is for what must arrive.
            context.counters.dropped.add(1);
            return;
        }
        let people = list
            .people
            .into_iter()
            .map(|it| chat::Person { user: it.user.0, contact: it.contact, blocked: it.blocked })
            .collect();
        let (presence, end, changed) = (list.presence.name().to_owned(), list.end, list.changed);
        self.write(context, server_frame::Frame::People(chat::People { presence, people, end, changed }));
    }
}
