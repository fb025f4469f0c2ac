//! A connection's first bytes: a request head, and what becomes of the connection.
//!
//! `GET /ws` becomes a chat session, `GET /echo` an echo, anything else that is well-formed goes to hyper.

use holdfast_protocol::chat::{self, Format};
use holdfast_protocol::ws::handshake::{self, HeadError, RequestHead, Upgrade};
use holdfast_reactor::{ConnectionId, Driver};

use super::connection::Phase;
use super::{Shard, wall_ms};
use crate::backend::Backend;
use crate::session::{Outcome, Session};
use crate::token::Claims;

/// What a head asks for; borrows nothing, so that the shard can act on it.
enum Request {
    /// More bytes are needed.
    Incomplete,
    /// Not a WebSocket, or not one of ours.
    Http,
    /// `/echo`.
    Echo { head_bytes: usize },
    /// `/ws`, whose handshake may have said who is there.
    Chat { head_bytes: usize, format: Format, claims: Option<Claims> },
    /// An answer that ends the connection.
    Refused { status: u16, retry_after_seconds: Option<u32>, text: String },
}

impl<D: Driver, B: Backend> Shard<D, B> {
    pub(super) fn process_head(&mut self, id: ConnectionId, bytes: &mut [u8]) {
        let limits = self.rules.head;
        let Some(connection) = self.table.get(id) else { return };
        // Most heads come in one piece and are parsed where they lie.
        let Some(rare) = &mut connection.rare else {
            if self.try_head(id, bytes) {
                return;
            }
            if let Some(connection) = self.table.get(id) {
                connection.rare().unread.extend_from_slice(bytes);
            }
            return;
        };
        rare.unread.extend_from_slice(bytes);
        // Only what is new is searched, so a head that comes byte by byte costs no more than one that comes whole.
        // What the scanner refuses, the parser refuses too, with the status.
        if rare.scanner.scan(&rare.unread, &limits) == Ok(None) {
            return;
        }
        let mut head = std::mem::take(&mut rare.unread);
        connection.rare = None;
        if !self.try_head(id, &mut head)
            && let Some(connection) = self.table.get(id)
        {
            connection.rare().unread = head;
        }
    }

    /// Acts on the head if it is whole; false when more bytes are needed.
    fn try_head(&mut self, id: ConnectionId, bytes: &mut [u8]) -> bool {
        match self.read_head(bytes) {
            Request::Incomplete => return false,
            Request::Http => self.begin_http(id, bytes),
            Request::Refused { status, retry_after_seconds, text } => {
                self.refuse(id, status, retry_after_seconds, &text);
            }
            Request::Echo { head_bytes } => {
                self.write_accept(id);
                if let Some(connection) = self.table.get(id) {
                    connection.phase = Phase::Echo;
                }
                let deadline = self.liveness_deadline(id);
                self.timers.set(id.index, deadline);
                self.process_frames(id, &mut bytes[head_bytes..]);
            }
            Request::Chat { head_bytes, format, claims } => {
                if claims.is_some() {
                    self.hold_accept(id);
                } else {
                    self.write_accept(id);
                }
                self.begin_chat(id, format, claims, &mut bytes[head_bytes..]);
            }
        }
        true
    }

    fn read_head(&mut self, bytes: &[u8]) -> Request {
        let head = match handshake::parse_request(bytes, &self.rules.head) {
            Ok(Some(head)) => head,
            Ok(None) => return Request::Incomplete,
            Err(error) => return refused(&error),
        };
        let is_echo = head.path() == "/echo" && self.rules.echo_messages.is_some();
        let is_chat = head.path() == "/ws";
        if !is_chat && !is_echo {
            return Request::Http;
        }
        let upgrade = match head.upgrade() {
            Ok(upgrade) => upgrade,
            Err(error) => {
                return Request::Refused {
                    status: error.status(),
                    retry_after_seconds: None,
                    text: error.to_string(),
                };
            }
        };
        if self.is_full() {
            self.counters.refused.add(1);
            return Request::Refused {
                status: 503,
                retry_after_seconds: Some(self.rules.retry_after_seconds),
                text: "the server is at its limit or going away; come back later".to_owned(),
            };
        }
        if is_echo {
            self.scratch.clear();
            handshake::write_accept(&mut self.scratch, upgrade.key, None);
            return Request::Echo { head_bytes: head.bytes() };
        }
        self.read_chat_upgrade(&head, &upgrade)
    }

    fn read_chat_upgrade(&mut self, head: &RequestHead<'_>, upgrade: &Upgrade<'_>) -> Request {
        let Some(format) = upgrade.protocols().find_map(Format::from_subprotocol) else {
            let text = format!(
                "ask for the subprotocol {} or {} in Sec-WebSocket-Protocol",
                Format::Json.subprotocol(),
                Format::Protobuf.subprotocol()
            );
            return Request::Refused { status: 400, retry_after_seconds: None, text };
        };
        let token = match bearer(upgrade, &self.rules.allowed_origins) {
            Ok(token) => token,
            Err((status, text)) => {
                return Request::Refused { status, retry_after_seconds: None, text: text.to_owned() };
            }
        };
        let claims = match token {
            None => None,
            Some(token) => {
                let now_seconds = wall_ms(&self.shared, self.now) / 1000;
                match self.shared.tokens.verify(token, now_seconds) {
                    Ok(claims)
                        if claims.device.as_deref().is_some_and(|name| chat::check_device(name).is_ok()) =>
                    {
                        Some(claims)
                    }
                    Ok(_) => {
                        let text = "a token in the handshake must name its device (claim `dev`)".to_owned();
                        return Request::Refused { status: 401, retry_after_seconds: None, text };
                    }
                    Err(error) => {
                        return Request::Refused {
                            status: 401,
                            retry_after_seconds: None,
                            text: error.to_string(),
                        };
                    }
                }
            }
        };
        self.scratch.clear();
        handshake::write_accept(&mut self.scratch, upgrade.key, Some(format.subprotocol()));
        Request::Chat { head_bytes: head.bytes(), format, claims }
    }

    /// Sends the answer that [`Self::read_head`] left in the scratch space.
    fn write_accept(&mut self, id: ConnectionId) {
        self.counters.handshakes.add(1);
        if let Some(output) = self.driver.output(id) {
            output.buffer().extend_from_slice(&self.scratch);
        }
    }

    /// Keeps the same back until the worker has answered, a moment later: then it goes out together with `welcome`,
    /// as one segment instead of two.
    fn hold_accept(&mut self, id: ConnectionId) {
        self.counters.handshakes.add(1);
        if let Some(connection) = self.table.get(id) {
            connection.rare().accept.extend_from_slice(&self.scratch);
        }
    }

    /// Sends what was kept back; must come before anything else that is written to a chat session.
    pub(super) fn release_accept(&mut self, id: ConnectionId) {
        let Some(rare) = self.table.get(id).and_then(|connection| connection.rare.as_mut()) else { return };
        if !rare.accept.is_empty()
            && let Some(output) = self.driver.output(id)
        {
            output.buffer().append(&mut rare.accept);
        }
    }

    fn begin_chat(&mut self, id: ConnectionId, format: Format, claims: Option<Claims>, rest: &mut [u8]) {
        let address = self.address(id);
        let Some(accepted_tick) = self.table.get(id).map(|connection| connection.accepted_tick) else {
            return;
        };
        let mut session = Session::anonymous(format);
        let outcome = match &claims {
            Some(claims) => {
                let device = self.devices.share(claims.device.as_deref().unwrap_or_default());
                session.log_in(claims, device, address, accepted_tick, None)
            }
            None => Outcome::Nothing,
        };
        let Some(connection) = self.table.get(id) else { return };
        connection.phase = Phase::Chat(session);
        self.timers.set(id.index, self.now.after(self.rules.login));
        if self.carry_out(id, outcome) {
            self.process_frames(id, rest);
        } else if !rest.is_empty()
            && let Some(connection) = self.table.get(id)
        {
            connection.rare().unread.extend_from_slice(rest);
        }
    }

    /// Answers with an error and ends the connection.
    pub(super) fn refuse(
        &mut self,
        id: ConnectionId,
        status: u16,
        retry_after_seconds: Option<u32>,
        text: &str,
    ) {
        self.counters.handshake_refused(status);
        if let Some(output) = self.driver.output(id) {
            handshake::write_refusal(output.buffer(), status, retry_after_seconds, text);
        }
        self.linger(id);
    }
}

fn refused(error: &HeadError) -> Request {
    Request::Refused { status: error.status(), retry_after_seconds: None, text: error.to_string() }
}

/// The token of a handshake: a header, a second subprotocol `bearer.<token>`, or a cookie; the last only for pages
/// of allowed sites, since browsers send cookies for anybody's page.
fn bearer<'a>(
    upgrade: &Upgrade<'a>,
    allowed_origins: &[String],
) -> Result<Option<&'a str>, (u16, &'static str)> {
    if let Some(value) = upgrade.authorization() {
        let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err((401, "the Authorization header must be `Bearer <token>`"));
        }
        return Ok(Some(token.trim()));
    }
    if let Some(token) = upgrade.protocols().find_map(|protocol| protocol.strip_prefix("bearer.")) {
        return Ok(Some(token));
    }
    let Some(cookies) = upgrade.cookie() else { return Ok(None) };
    let cookie = cookies.split(';').find_map(|pair| pair.trim().strip_prefix("holdfast_token="));
    let Some(token) = cookie else { return Ok(None) };
    match upgrade.origin() {
        Some(origin) if allowed_origins.iter().any(|allowed| allowed.eq_ignore_ascii_case(origin)) => {
            Ok(Some(token))
        }
        _ => Err((403, "a cookie counts only with an Origin that auth.allowed_origins names")),
    }
}
