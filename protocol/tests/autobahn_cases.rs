//! Conformance without the suite: every case of the Autobahn|Testsuite's 1-7, 9 and 10 against an echo that is made of
//! the decoder and the encode functions alone, as a server and as a client.

mod autobahn;

use autobahn::{CATEGORIES, Case, Chop, Echo, End, Frame, Step};
use holdfast_protocol::ws::{
    CloseCode, Decoder, Item, MessageLimits, Opcode, Role, encode_close, encode_frame,
};

/// Those of `/echo`.
const LIMITS: MessageLimits =
    MessageLimits { frame_bytes: 16 << 20, message_bytes: 16 << 20, fragments: 65_537 };

/// What a server or client does that sends back what it gets.
struct EchoPeer {
    role: Role,
    decoder: Decoder,
    out: Vec<u8>,
    has_closed: bool,
    frames_sent: u32,
}

impl EchoPeer {
    fn new(role: Role) -> Self {
        Self { role, decoder: Decoder::new(role), out: Vec::new(), has_closed: false, frames_sent: 0 }
    }

    fn receive(&mut self, bytes: &[u8]) {
        // Memory of its own for each read, as from a pool.
        let mut bytes = bytes.to_vec();
        let mut input = bytes.as_mut_slice();
        loop {
            self.frames_sent += 1;
            let mask = (self.role == Role::Client).then(|| self.frames_sent.to_le_bytes());
            match self.decoder.next(&mut input, &LIMITS) {
                Ok(None) => return,
                Ok(Some(Item::Text(text))) => {
                    encode_frame(&mut self.out, Opcode::Text, text.as_bytes(), mask);
                }
                Ok(Some(Item::Binary(bytes))) => encode_frame(&mut self.out, Opcode::Binary, bytes, mask),
                Ok(Some(Item::Ping(payload))) => encode_frame(&mut self.out, Opcode::Pong, payload, mask),
                Ok(Some(Item::Pong(_))) => {}
                Ok(Some(Item::Close(close))) => {
                    let code = close.map_or(CloseCode::NO_STATUS, |close| close.code);
                    encode_close(&mut self.out, code, "", mask);
                    self.has_closed = true;
                }
                Err(error) => {
                    encode_close(&mut self.out, error.close_code(), &error.to_string(), mask);
                    self.has_closed = true;
                }
            }
        }
    }
}

/// What the suite has read.
#[derive(Debug, Default)]
struct Seen {
    echoes: Vec<Echo>,
    /// The close frame, if one came, with its code.
    close: Option<Option<u16>>,
}

/// The suite's end of the connection.
struct Suite {
    peer: EchoPeer,
    decoder: Decoder,
    seen: Seen,
    /// Sent, but not written: it goes with what follows.
    pending: Vec<u8>,
    chop: Chop,
}

/// Stops a case, with the reason.
type Verdict = Result<(), String>;

impl Suite {
    fn new(peer: Role, chop: Chop) -> Self {
        let role = if peer == Role::Server { Role::Client } else { Role::Server };
        let seen = Seen::default();
        Self { peer: EchoPeer::new(peer), decoder: Decoder::new(role), seen, pending: Vec::new(), chop }
    }

    fn send(&mut self, bytes: &[u8]) -> Verdict {
        match self.chop {
            Chop::Whole => self.pending.extend_from_slice(bytes),
            Chop::Frames => self.peer.receive(bytes),
            Chop::Bytes(count) => bytes.chunks(count).for_each(|chunk| self.peer.receive(chunk)),
        }
        Ok(())
    }

    /// Writes what is pending and reads what has come back.
    fn wait(&mut self) -> Verdict {
        let pending = std::mem::take(&mut self.pending);
        self.peer.receive(&pending);
        let mut bytes = std::mem::take(&mut self.peer.out);
        let mut input = bytes.as_mut_slice();
        while let Some(item) = self
            .decoder
            .next(&mut input, &LIMITS)
            .map_err(|error| format!("the peer itself is wrong: {error}"))?
        {
            if self.seen.close.is_some() {
                return Err(format!("after its close frame the peer sent {item:?}"));
            }
            match item {
                Item::Text(text) => self.seen.echoes.push(Echo::Text(text.as_bytes().to_vec())),
                Item::Binary(bytes) => self.seen.echoes.push(Echo::Binary(bytes.to_vec())),
                Item::Pong(payload) => self.seen.echoes.push(Echo::Pong(payload.to_vec())),
                Item::Ping(payload) => return Err(format!("an echo does not ping, but sent {payload:?}")),
                Item::Close(close) => self.seen.close = Some(close.map(|close| close.code.0)),
            }
        }
        if self.peer.has_closed != self.seen.close.is_some() {
            return Err("the peer's close frame did not arrive".to_owned());
        }
        Ok(())
    }

    /// `Ok(true)`: nothing more is to be sent.
    fn pause(&mut self, step: &Step) -> Result<bool, String> {
        self.wait()?;
        match *step {
            Step::IsOpen(_) if self.seen.close.is_some() => Err("the peer closed too early".to_owned()),
            Step::IsOpen(count) if self.seen.echoes.len() != count => {
                Err(format!("{} echoes instead of {count} at a wait", self.seen.echoes.len()))
            }
            Step::HasFailed if self.seen.close.is_none() => Err("the peer did not fail fast".to_owned()),
            Step::HasFailed => Ok(true),
            Step::IsOpen(_) | Step::Frame(_) => Ok(false),
        }
    }

    /// `Ok(true)`: nothing more is to be sent.
    fn send_frame(&mut self, frame: &Frame, sequence: usize) -> Result<bool, String> {
        let (header_bytes, bytes) = frame.bytes(self.peer.role, sequence);
        let mut start = 0;
        for (at, step) in &frame.pauses {
            let end = header_bytes + at;
            self.send(&bytes[start..end])?;
            start = end;
            if self.pause(step)? {
                return Ok(true);
            }
        }
        self.send(&bytes[start..])?;
        Ok(false)
    }
}

/// Plays a case against an echo in this role.
fn play(case: &Case, role: Role, chop: Chop) -> Verdict {
    let mut suite = Suite::new(role, chop);
    for (sequence, step) in case.steps.iter().enumerate() {
        let is_over = match step {
            Step::Frame(frame) => suite.send_frame(frame, sequence)?,
            pause => suite.pause(pause)?,
        };
        if is_over {
            break;
        }
    }
    suite.wait()?;
    if case.end == End::Clean {
        if let Some(code) = suite.seen.close {
            return Err(format!("the peer closed with {code:?} by itself"));
        }
        let close = Frame {
            fin: true,
            reserved: 0,
            opcode: Opcode::Close.bits(),
            payload: 1000u16.to_be_bytes().to_vec(),
            pauses: Vec::new(),
        };
        suite.send_frame(&close, case.steps.len())?;
        suite.wait()?;
    }
    if suite.seen.echoes != case.echoes {
        let sizes = |echoes: &[Echo]| echoes.iter().map(size).collect::<Vec<_>>();
        return Err(format!("echoes of {:?}, not of {:?}", sizes(&suite.seen.echoes), sizes(&case.echoes)));
    }
    let expected = match case.end {
        End::Clean => Some(1000),
        End::Says(code) => code,
    };
    if suite.seen.close != Some(expected) {
        return Err(format!("closed with {:?}, not with {expected:?}", suite.seen.close));
    }
    Ok(())
}

fn size(echo: &Echo) -> (&'static str, usize) {
    match echo {
        Echo::Text(bytes) => ("text", bytes.len()),
        Echo::Binary(bytes) => ("binary", bytes.len()),
        Echo::Pong(bytes) => ("pong", bytes.len()),
    }
}

/// Plays the cases of a category, cut as the suite does and in other ways, and reports all that fail.
fn play_all(category: u8, chops: &[Chop]) {
    let (_, cases) =
        CATEGORIES.iter().find(|(number, _)| *number == category).expect("a category of the table");
    let mut failed = Vec::new();
    for case in cases() {
        for role in [Role::Server, Role::Client] {
            for chop in [case.chop].iter().chain(chops) {
                if let Err(why) = play(&case, role, *chop) {
                    failed.push(format!("{} as {role:?}, {chop:?}: {why}", case.number));
                }
            }
        }
    }
    assert!(failed.is_empty(), "{} failed:\n{}", failed.len(), failed.join("\n"));
}

const EVERY_CHOP: &[Chop] = &[Chop::Whole, Chop::Frames, Chop::Bytes(1), Chop::Bytes(3), Chop::Bytes(1_300)];

#[test]
fn the_table_is_complete() {
    let mut numbers: Vec<String> = Vec::new();
    let counts = CATEGORIES.map(|(category, cases)| {
        let before = numbers.len();
        numbers.extend(cases().into_iter().map(|case| case.number));
        assert!(numbers[before..].iter().all(|number| number.starts_with(&format!("{category}."))));
        numbers.len() - before
    });
    // As many as the suite has in 1, 2, 3, 4, 5, 6, 7, 9 and 10.
    assert_eq!(counts, [16, 11, 7, 10, 20, 145, 37, 54, 1]);
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 247 + 54);
}

/// A table that cannot fail shows nothing: a wrong expectation must be found, of each kind.
#[test]
fn a_wrong_peer_would_be_found() {
    let [_, control, _, _, fragments, utf8, closing, ..] = CATEGORIES.map(|(_, cases)| cases);
    let case = |cases: fn() -> Vec<Case>, number: &str| {
        cases().into_iter().find(|case| case.number == number).expect("a case of the table")
    };
    let verdict =
        |case: &Case| play(case, Role::Server, case.chop).expect_err("a case with a wrong expectation");
    let missing = Case { echoes: Vec::new(), ..case(control, "2.2") };
    assert!(verdict(&missing).starts_with("echoes of"));
    let too_early = Case { end: End::Clean, ..case(closing, "7.3.3") };
    assert!(verdict(&too_early).contains("by itself"));
    let wrong_code = Case { end: End::Says(Some(1002)), ..case(utf8, "6.3.1") };
    assert!(verdict(&wrong_code).starts_with("closed with Some(Some(1007))"));
    let mut late = case(fragments, "5.19");
    late.steps.swap(2, 3);
    assert!(verdict(&late).contains("at a wait"));
    let mut slow = case(utf8, "6.4.1");
    slow.steps.swap(2, 3);
    assert!(verdict(&slow).contains("fail fast"));
}

#[test]
fn messages() {
    play_all(1, EVERY_CHOP);
}

#[test]
fn pings_and_pongs() {
    play_all(2, EVERY_CHOP);
}

#[test]
fn reserved_bits() {
    play_all(3, EVERY_CHOP);
}

#[test]
fn reserved_opcodes() {
    play_all(4, EVERY_CHOP);
}

#[test]
fn fragments() {
    play_all(5, EVERY_CHOP);
}

#[test]
fn utf8() {
    play_all(6, EVERY_CHOP);
}

#[test]
fn closing() {
    play_all(7, EVERY_CHOP);
}

#[test]
fn large_messages() {
    play_all(9, &[Chop::Bytes(16 * 1024)]);
}

#[test]
fn automatic_fragments() {
    play_all(10, EVERY_CHOP);
}
