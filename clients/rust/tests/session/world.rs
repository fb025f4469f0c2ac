//! A client, a server, the wire between them, and the time.

use holdfast_client::{Client, ClientConfig, Event};
use holdfast_protocol::chat::{Body, Format, body, entry};
use holdfast_protocol::id::Rev;

use crate::server::{Server, TOKEN};

/// SplitMix64: the same seed gives the same run.
#[derive(Debug)]
pub(crate) struct Seeded(u64);

impl Seeded {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        holdfast_client::Random::next_u64(self) % bound
    }
}

impl holdfast_client::Random for Seeded {
    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[derive(Debug)]
pub(crate) struct World {
    pub(crate) now_ms: u64,
    pub(crate) client: Client<Seeded>,
    pub(crate) server: Server,
    /// Whether a transport can be had.
    pub(crate) is_reachable: bool,
    is_up: bool,
    /// How the wire cuts the bytes.
    pub(crate) random: Seeded,
    /// What happened, without the entries.
    pub(crate) events: Vec<Event>,
    /// The texts of the entries, by `rev` - 1.
    pub(crate) entries: Vec<String>,
    pub(crate) connects: Vec<(u64, Option<String>)>,
}

pub(crate) fn text(text: &str) -> Body {
    Body { kind: Some(body::Kind::Text(text.into())) }
}

impl World {
    pub(crate) fn new(format: Format, seed: u64) -> Self {
        let config = ClientConfig {
            format,
            device: "phone".into(),
            cursor: Some(Rev(0)),
            ..ClientConfig::new("chat.example", TOKEN)
        };
        Self::with_config(config, seed)
    }

    pub(crate) fn with_config(config: ClientConfig, seed: u64) -> Self {
        let format = config.format;
        Self {
            now_ms: 0,
            client: Client::new(config, Seeded(seed), 0).expect("the configuration is good"),
            server: Server::new(format),
            is_reachable: true,
            is_up: false,
            random: Seeded(!seed),
            events: Vec::new(),
            entries: Vec::new(),
            connects: Vec::new(),
        }
    }

    /// Until nothing more happens at this moment.
    pub(crate) fn settle(&mut self) {
        for _ in 0..100_000 {
            if !self.step() {
                return;
            }
        }
        panic!("at {} ms client and server talk without end", self.now_ms);
    }

    /// Lets time pass, from one deadline of the client to the next.
    pub(crate) fn advance_to(&mut self, to_ms: u64) {
        self.settle();
        for _ in 0..100_000 {
            match self.client.poll_timeout() {
                Some(at_ms) if at_ms <= to_ms => {
                    self.now_ms = self.now_ms.max(at_ms);
                    self.client.handle_timeout(self.now_ms);
                    self.settle();
                }
                _ => {
                    self.now_ms = to_ms;
                    return;
                }
            }
        }
        panic!("at {} ms the client does not let time pass", self.now_ms);
    }

    pub(crate) fn advance(&mut self, by_ms: u64) {
        self.advance_to(self.now_ms + by_ms);
    }

    /// The wire breaks; the client hears of it.
    pub(crate) fn cut(&mut self) {
        self.server.disconnect();
        if std::mem::take(&mut self.is_up) {
            self.client.handle_disconnected(self.now_ms);
        }
    }

    fn step(&mut self) -> bool {
        while let Some(event) = self.client.poll_event() {
            self.handle_event(event);
        }
        let mut bytes = Vec::new();
        let mut has_moved = self.client.poll_transmit(self.now_ms, &mut bytes);
        if self.is_up {
            for piece in self.pieces(bytes) {
                let mut piece = piece;
                self.server.handle_bytes(self.now_ms, &mut piece);
            }
            let output = self.server.take_output();
            has_moved |= !output.is_empty();
            for mut piece in self.pieces(output) {
                self.client.handle_bytes(self.now_ms, &mut piece);
            }
        }
        has_moved
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Connect { to } => {
                assert!(!self.is_up, "one transport at a time");
                self.connects.push((self.now_ms, to));
                if self.is_reachable {
                    self.is_up = true;
                    self.server.accept();
                    self.client.handle_connected(self.now_ms);
                } else {
                    self.client.handle_disconnected(self.now_ms);
                }
            }
            Event::Disconnect => {
                let mut last = Vec::new();
                self.client.poll_transmit(self.now_ms, &mut last);
                if self.is_up {
                    self.server.handle_bytes(self.now_ms, &mut last);
                }
                self.is_up = false;
                self.server.disconnect();
            }
            Event::Entry { rev, entry } => {
                self.entries.push(text_of(&entry));
                assert_eq!(rev.0, self.entries.len() as u64, "entries come each once and in order");
            }
            event => self.events.push(event),
        }
    }

    /// The same bytes, cut anywhere; one at a time often enough.
    fn pieces(&mut self, bytes: Vec<u8>) -> Vec<Vec<u8>> {
        let mut pieces = Vec::new();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let most = [1, 7, 1_000_000][self.random.below(3) as usize];
            let (piece, after) = rest.split_at(rest.len().min(1 + self.random.below(most) as usize));
            pieces.push(piece.to_vec());
            rest = after;
        }
        pieces
    }

    /// What the server has for the user, as texts.
    pub(crate) fn inbox(&self) -> Vec<String> {
        self.server.inbox.iter().map(text_of).collect()
    }

    /// Takes the events that have come.
    pub(crate) fn take_events(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.events)
    }
}

fn text_of(entry: &holdfast_protocol::chat::Entry) -> String {
    let Some(entry::Kind::Message(message)) = &entry.kind else { panic!("{entry:?} is a message") };
    match message.body.as_ref().and_then(|body| body.kind.as_ref()) {
        Some(body::Kind::Text(text)) => text.clone(),
        other => panic!("{other:?} is a text"),
    }
}
