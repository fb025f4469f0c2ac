//! What the kernel keeps for single TCP connections, by its own accounting: `sock_diag(7)`, which `ss -tm` asks too.
//!
//! ```text
//! request   nlmsghdr 16  family protocol extensions -  states 4  id 48 (sport dport src dst if cookie)
//! answer    nlmsghdr 16  family state timer retrans    id 48     expires rqueue wqueue uid inode 20   attributes
//! attribute length 2  type 2  SK_MEMINFO: rmem_alloc rcvbuf wmem_alloc sndbuf fwd_alloc wmem_queued optmem backlog drops
//! ```
//!
//! Only this machine's sockets: a server elsewhere is not seen.

use std::io;

use rustix::net::netlink::{SOCK_DIAG, SocketAddrNetlink};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with};
use serde::Serialize;

/// One end of one connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct SocketMemory {
    /// Packets that were received and not read, with their overhead (`rmem_alloc`).
    pub receive_bytes: u64,
    /// Packets that wait for the peer's acknowledgement or window, with their overhead (`wmem_queued`).
    pub send_bytes: u64,
    /// Set aside for packets to come (`fwd_alloc`).
    pub forward_bytes: u64,
    /// Options and filters (`optmem`).
    pub option_bytes: u64,
    /// Packets that came while the socket was in use (`backlog`).
    pub backlog_bytes: u64,
    /// SO_SNDBUF as the kernel has doubled it.
    pub send_limit_bytes: u64,
    /// Of `receive_bytes`, what the program will read.
    pub unread_bytes: u64,
    /// Of `send_bytes`, what the program has written.
    pub unacked_bytes: u64,
}

impl SocketMemory {
    /// All that is not the socket itself.
    #[must_use]
    pub const fn total_bytes(&self) -> u64 {
        self.receive_bytes + self.send_bytes + self.forward_bytes + self.option_bytes + self.backlog_bytes
    }
}

/// Whose port is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Sockets that are bound to it: the server's ends.
    Local,
    /// Sockets that are connected to it: its clients' ends.
    Remote,
}

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const NLM_F_REQUEST_DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const INET_DIAG_SKMEMINFO: u16 = 7;
const IPPROTO_TCP: u8 = 6;
/// ESTABLISHED, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT: what has buffers.
const STATES: u32 = 1 << 1 | 1 << 4 | 1 << 5 | 1 << 8;
const HEADER_BYTES: usize = 16;
const MESSAGE_BYTES: usize = 72;
/// More than the kernel puts into one answer.
const ANSWER_BYTES: usize = 64 << 10;

/// All connections of this machine with this port at one end.
///
/// # Errors
/// When the kernel has no `inet_diag`, or does not let us ask.
pub fn sockets(end: End, port: u16) -> io::Result<Vec<SocketMemory>> {
    let socket =
        socket_with(AddressFamily::NETLINK, SocketType::DGRAM, SocketFlags::CLOEXEC, Some(SOCK_DIAG))?;
    let mut found = Vec::new();
    let mut answer = vec![0; ANSWER_BYTES];
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        let request = request(family.as_raw() as u8, end, port);
        sendto(&socket, &request, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        loop {
            let (bytes, _) = recv(&socket, &mut answer[..], RecvFlags::empty())?;
            if parse(&answer[..bytes], &mut found)? {
                break;
            }
        }
    }
    Ok(found)
}

fn request(family: u8, end: End, port: u16) -> Vec<u8> {
    let mut request = Vec::with_capacity(MESSAGE_BYTES);
    request.extend_from_slice(&(MESSAGE_BYTES as u32).to_ne_bytes());
    request.extend_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(&[family, IPPROTO_TCP, 1 << (INET_DIAG_SKMEMINFO - 1), 0]);
    request.extend_from_slice(&STATES.to_ne_bytes());
    let (local, remote) = if end == End::Local { (port, 0) } else { (0, port) };
    request.extend_from_slice(&local.to_be_bytes());
    request.extend_from_slice(&remote.to_be_bytes());
    request.resize(MESSAGE_BYTES, 0);
    request
}

/// Takes what is in one answer; true when it was the last.
fn parse(mut answer: &[u8], found: &mut Vec<SocketMemory>) -> io::Result<bool> {
    while let Some(length) = word(answer, 0) {
        let length = length as usize;
        let kind = half(answer, 4).unwrap_or(NLMSG_DONE);
        let Some(message) = answer.get(HEADER_BYTES..length) else { break };
        match kind {
            NLMSG_DONE => return Ok(true),
            NLMSG_ERROR => {
                let errno = word(message, 0).unwrap_or_default() as i32;
                return Err(io::Error::from_raw_os_error(-errno));
            }
            _ => found.extend(memory(message)),
        }
        answer = answer.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

fn memory(message: &[u8]) -> Option<SocketMemory> {
    let (unread_bytes, unacked_bytes) = (word(message, 56)?, word(message, 60)?);
    let mut attributes = message.get(MESSAGE_BYTES..)?;
    while let (Some(length), Some(kind)) = (half(attributes, 0), half(attributes, 2)) {
        let value = attributes.get(4..usize::from(length))?;
        if kind == INET_DIAG_SKMEMINFO {
            let figure = |index: usize| word(value, 4 * index).map(u64::from);
            return Some(SocketMemory {
                receive_bytes: figure(0)?,
                send_limit_bytes: figure(3)?,
                forward_bytes: figure(4)?,
                send_bytes: figure(5)?,
                option_bytes: figure(6)?,
                backlog_bytes: figure(7)?,
                unread_bytes: unread_bytes.into(),
                unacked_bytes: unacked_bytes.into(),
            });
        }
        attributes = attributes.get(usize::from(length).next_multiple_of(4)..)?;
    }
    None
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::time::Duration;

    #[test]
    fn what_is_not_read_waits_at_both_ends() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
        let port = listener.local_addr().expect("it is bound").port();
        let client = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        let (mut server, _) = listener.accept().expect("it was connected");
        server.set_nonblocking(true).expect("it is a socket");
        let mut written = 0;
        while let Ok(bytes) = server.write(&[7; 10_000]) {
            written += bytes as u64;
        }
        let look = |end| {
            let [socket] = sockets(end, port).expect("the kernel answers")[..] else { panic!("one socket") };
            socket
        };
        let (mut near, mut far) = (look(End::Local), look(End::Remote));
        // What has arrived is acknowledged a little later, of which nobody is told.
        for _ in 0..500 {
            if near.unacked_bytes + far.unread_bytes == written {
                break;
            }
            std::thread::park_timeout(Duration::from_millis(10));
            (near, far) = (look(End::Local), look(End::Remote));
        }
        assert_eq!(near.unacked_bytes + far.unread_bytes, written);
        assert!(near.send_bytes >= near.unacked_bytes && near.total_bytes() >= near.send_bytes, "{near:?}");
        assert!(far.receive_bytes >= far.unread_bytes && far.unread_bytes > 0, "{far:?}");
        drop(client);
    }

    #[test]
    fn answers_that_are_cut_are_not_misread() {
        let mut whole = vec![0; HEADER_BYTES + MESSAGE_BYTES];
        whole.extend_from_slice(&[40, 0, 7, 0]);
        (1..=9u32).for_each(|figure| whole.extend_from_slice(&figure.to_ne_bytes()));
        let length = whole.len() as u32;
        whole[..4].copy_from_slice(&length.to_ne_bytes());
        whole[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        for cut in 0..whole.len() {
            let mut found = Vec::new();
            assert!(matches!(parse(&whole[..cut], &mut found), Ok(false)) && found.is_empty(), "{cut}");
        }
        let mut found = Vec::new();
        assert!(matches!(parse(&whole, &mut found), Ok(false)));
        assert_eq!((found[0].receive_bytes, found[0].send_limit_bytes, found[0].backlog_bytes), (1, 4, 8));
        assert_eq!(found[0].total_bytes(), 1 + 6 + 5 + 7 + 8);
    }
}
