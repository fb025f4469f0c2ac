//! Whom a session watches, and how it is told of them.

use holdfast_protocol::chat::{self, error_code, server_frame};
use holdfast_protocol::id::UserId;
use holdfast_storage::command::Presence;

use super::{Context, Outcome, Session};

impl Session {
    pub(super) fn watch_presence(
        &mut self,
        watch: &chat::WatchPresence,
        context: &mut Context<'_>,
    ) -> Outcome {
        match chat::check_watched(&watch.users, context.rules.watched_users) {
            Ok(users) => Outcome::Watch(users),
            Err(error) => {
                self.write_error(context, error.code(), &error.to_string(), 0, "");
                Outcome::Nothing
            }
        }
    }

    /// The shard has more connections than can watch.
    pub fn refuse_watch(&mut self, context: &mut Context<'_>) {
        let text = "this server has more connections than can watch; watch on another one";
        self.write_error(context, error_code::OVERLOADED, text, 60_000, "");
    }

    /// Tells how it is with some users; false when the peer does not read fast enough: three quarters of the room are
    /// for what must arrive.
    pub fn write_presence(&mut self, users: &[(UserId, Presence)], context: &mut Context<'_>) -> bool {
        if context.unsent_bytes > context.rules.output_bytes / 4 {
            context.counters.dropped.add(1);
            return false;
        }
        let users = users
            .iter()
            .map(|&(user, presence)| {
                let (online, away, last_seen_ms) = match presence {
                    Presence::Online => (true, false, None),
                    Presence::Away => (true, true, None),
                    Presence::Offline { last_seen_ms } => (false, false, last_seen_ms),
                };
                chat::UserPresence { user: user.0, online, away, last_seen_ms }
            })
            .collect();
        self.write(context, server_frame::Frame::Presence(chat::Presence { users }));
        true
    }
}
