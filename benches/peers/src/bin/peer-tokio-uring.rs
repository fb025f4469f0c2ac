//! The control arm: our own codec on `tokio-uring`. What is left between this and Holdfast is what the driver buys:
//! direct descriptors, provided buffers, batched submission. One receive is answered with one send, as Holdfast does.

use std::error::Error;
use std::io;

use clap::Parser;
use holdfast_peers::{MESSAGE_BYTES, Options};
use holdfast_protocol::ws::handshake::{HeadLimits, parse_request, write_accept, write_refusal};
use holdfast_protocol::ws::{
    CloseCode, Decoder, Item, MessageLimits, Opcode, Role, encode_close, encode_frame,
};
use tokio_uring::net::{TcpListener, TcpStream};

const RECEIVE_BYTES: usize = 16 << 10;

const LIMITS: MessageLimits = MessageLimits {
    frame_bytes: MESSAGE_BYTES as u64,
    message_bytes: MESSAGE_BYTES as u64,
    // Autobahn|Testsuite sends 65,536 and one that only ends the message.
    fragments: 65_537,
};

fn main() -> Result<(), Box<dyn Error>> {
    let listener = Options::parse().start()?;
    tokio_uring::start(async move {
        let listener = TcpListener::from_std(listener);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio_uring::spawn(async move {
                // A peer that goes away is how every connection ends.
                let _ = serve(stream).await;
            });
        }
    })
}

async fn serve(stream: TcpStream) -> io::Result<()> {
    let Some(mut left) = upgrade(&stream).await? else { return Ok(()) };
    let mut decoder = Decoder::new(Role::Server);
    let mut output = Vec::new();
    let mut ended = echo(&mut decoder, &mut left, &mut output);
    drop(left);
    let mut input = Vec::with_capacity(RECEIVE_BYTES);
    loop {
        if !output.is_empty() {
            let (result, buffer) = stream.write_all(output).await;
            result?;
            output = buffer;
            output.clear();
        }
        if ended {
            return Ok(());
        }
        let (result, buffer) = stream.read(input).await;
        input = buffer;
        match result? {
            0 => return Ok(()),
            received => ended = echo(&mut decoder, &mut input[..received], &mut output),
        }
    }
}

/// Answers the handshake; the bytes that came after it, or `None` when it was refused.
async fn upgrade(stream: &TcpStream) -> io::Result<Option<Vec<u8>>> {
    let limits = HeadLimits::default();
    let mut head = Vec::new();
    loop {
        let (result, part) = stream.read(Vec::with_capacity(RECEIVE_BYTES)).await;
        let received = result?;
        if received == 0 {
            return Ok(None);
        }
        head.extend_from_slice(&part[..received]);
        let mut answer = Vec::new();
        let accepted = match parse_request(&head, &limits) {
            Ok(None) => continue,
            Ok(Some(request)) => match request.upgrade() {
                Ok(upgrade) => {
                    write_accept(&mut answer, upgrade.key, None);
                    Some(head[request.bytes()..].to_vec())
                }
                Err(error) => {
                    write_refusal(&mut answer, error.status(), None, "");
                    None
                }
            },
            Err(error) => {
                write_refusal(&mut answer, error.status(), None, "");
                None
            }
        };
        stream.write_all(answer).await.0?;
        return Ok(accepted);
    }
}

/// Echoes everything that one receive brought; true when the connection is over.
fn echo(decoder: &mut Decoder, mut input: &mut [u8], output: &mut Vec<u8>) -> bool {
    loop {
        match decoder.next(&mut input, &LIMITS) {
            Ok(None) => return false,
            Ok(Some(Item::Text(text))) => encode_frame(output, Opcode::Text, text.as_bytes(), None),
            Ok(Some(Item::Binary(bytes))) => encode_frame(output, Opcode::Binary, bytes, None),
            Ok(Some(Item::Ping(bytes))) => encode_frame(output, Opcode::Pong, bytes, None),
            Ok(Some(Item::Pong(_))) => {}
            Ok(Some(Item::Close(frame))) => {
                let code = frame.map_or(CloseCode::NORMAL, |frame| frame.code);
                encode_close(output, code, "", None);
                return true;
            }
            Err(error) => {
                encode_close(output, error.close_code(), "", None);
                return true;
            }
        }
    }
}
