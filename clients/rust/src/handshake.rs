//! The opening handshake of one connection, RFC 6455 §4.1.

use holdfast_protocol::ws::handshake::{
    ClientKey, ClientRequest, HeadLimits, HeadScanner, client_key, parse_response, write_request,
};

use crate::config::ClientConfig;
use crate::event::Lost;
use crate::random::Random;

/// More than any server has reason to answer.
const LIMITS: HeadLimits = HeadLimits { head_bytes: 16 * 1024, headers: 64 };

#[derive(Debug)]
pub(crate) struct Handshake {
    key: ClientKey,
    head: Vec<u8>,
    scanner: HeadScanner,
}

impl Handshake {
    /// Appends the request to `out`.
    pub(crate) fn begin(config: &ClientConfig, random: &mut impl Random, out: &mut Vec<u8>) -> Self {
        let nonce = (u128::from(random.next_u64()) << 64) | u128::from(random.next_u64());
        let key = client_key(nonce.to_le_bytes());
        let request = ClientRequest {
            host: &config.host,
            target: &config.target,
            key: key.as_str(),
            subprotocols: &[config.format.subprotocol()],
            headers: &[],
        };
        write_request(out, &request);
        Self { key, head: Vec::new(), scanner: HeadScanner::new() }
    }

    /// Takes bytes of the answer. When it is complete and good: the bytes that came after it.
    pub(crate) fn take(&mut self, bytes: &[u8], config: &ClientConfig) -> Result<Option<Vec<u8>>, Lost> {
        self.head.extend_from_slice(bytes);
        // The scanner remembers where it was; the answer is parsed once, when it is whole.
        let scanned = self.scanner.scan(&self.head, &LIMITS);
        if matches!(scanned, Ok(None)) {
            return Ok(None);
        }
        let subprotocol = config.format.subprotocol();
        let response = match parse_response(&self.head, self.key.as_str(), &[subprotocol])? {
            Some(response) if response.subprotocol == Some(subprotocol) => response,
            _ => return Err(Lost::Subprotocol(subprotocol)),
        };
        let head_bytes = response.bytes;
        Ok(Some(self.head.split_off(head_bytes)))
    }
}
