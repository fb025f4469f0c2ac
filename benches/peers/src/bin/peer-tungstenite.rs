//! An echo server on `tokio-tungstenite` and Tokio's current-thread runtime, with buffers of 4 KiB instead of the
//! default 128 KiB, which cost it memory and, with one message in flight, four times the time.

use std::error::Error;

use clap::Parser;
use futures_util::{SinkExt, StreamExt};
use holdfast_peers::{MESSAGE_BYTES, Options, runtime};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::accept_async_with_config;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

const BUFFER_BYTES: usize = 4 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let listener = Options::parse().start()?;
    runtime()?.block_on(tokio::task::LocalSet::new().run_until(async move {
        let listener = TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::task::spawn_local(async move {
                // A peer that goes away is how every connection ends.
                let _ = echo(stream).await;
            });
        }
    }))
}

async fn echo(stream: TcpStream) -> Result<(), tokio_tungstenite::tungstenite::Error> {
    let config = WebSocketConfig::default()
        .read_buffer_size(BUFFER_BYTES)
        .write_buffer_size(BUFFER_BYTES)
        .max_message_size(Some(MESSAGE_BYTES))
        .max_frame_size(Some(MESSAGE_BYTES));
    let mut socket = accept_async_with_config(stream, Some(config)).await?;
    while let Some(message) = socket.next().await {
        let message = message?;
        if message.is_text() || message.is_binary() {
            socket.send(message).await?;
        }
    }
    Ok(())
}
