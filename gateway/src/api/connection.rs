//! One connection on hyper's side: a pipe that looks like a socket, the request loop, and the way back to the shard.
//!
//! Time limits: a request's head by `http.idle_timeout` after the answer before it (the first head was read whole by
//! the shard), the answer by `http.request_timeout`, and as long again for a client that does not fetch it.
//!
//! **Way back.** The request that asks for a WebSocket has been read by hyper, but must be answered by the shard. Its
//! service first waits until hyper has flushed the answers before it, then fails; hyper writes nothing for a service
//! that fails, and gives back what it has read but not parsed.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use holdfast_protocol::ws::handshake::{self, HeadLimits};
use hyper::body::Incoming;
use hyper::rt::ReadBufCursor;
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioTimer;
use tokio::sync::watch;
use tokio::time::Sleep;
use tower::ServiceExt as _;

use super::pipe::{Gone, Pipe};
use super::problem;
use crate::config::Config;

/// Hyper's read buffer: a request head and some of its body.
const READ_BUFFER_BYTES: usize = 16 << 10;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Serving {
    http: http1::Builder,
    router: Router,
    request_timeout: Duration,
    /// Paths whose requests the shard answers.
    shard_paths: &'static [&'static str],
    head_limits: HeadLimits,
}

impl Serving {
    pub(super) fn new(config: &Config, router: Router) -> Self {
        let head_bytes = usize::try_from(config.limits.request_head_bytes).unwrap_or(usize::MAX);
        let headers = config.limits.request_headers as usize;
        let mut http = http1::Builder::new();
        http.timer(TokioTimer::new())
            .header_read_timeout(config.http.idle_timeout)
            .max_headers(headers)
            .max_header_size(head_bytes)
            .max_buf_size(READ_BUFFER_BYTES.max(head_bytes))
            // A client may say that it will send no more and still wants its answer.
            .half_close(true);
        Self {
            http,
            router,
            request_timeout: config.http.request_timeout,
            shard_paths: if config.bench_endpoints { &["/ws", "/echo"] } else { &["/ws"] },
            head_limits: HeadLimits { head_bytes, headers },
        }
    }

    /// Serves one connection until it ends or goes back to its shard.
    pub(super) async fn serve(self: Arc<Self>, pipe: Arc<Pipe>, mut draining: watch::Receiver<bool>) {
        let turn = Arc::new(Turn::default());
        let io = PipeIo {
            pipe: Arc::clone(&pipe),
            turn: Arc::clone(&turn),
            stalled: None,
            patience: self.request_timeout,
        };
        let requests = Requests { serving: Arc::clone(&self), turn: Arc::clone(&turn) };
        let mut connection = self.http.serve_connection(io, requests);
        {
            let mut told_to_go = pin!(async move {
                // An error means that the API is gone, and this connection with it.
                let _ = draining.wait_for(|draining| *draining).await;
            });
            let mut told = false;
            // How the connection ended, hyper has told the client; there is nobody else to tell.
            let _ = std::future::poll_fn(|context| {
                if !turn.lock().is_draining && told_to_go.as_mut().poll(context).is_ready() {
                    turn.lock().is_draining = true;
                }
                let outcome = connection.poll_without_shutdown(context);
                let state = turn.lock();
                // Not before the first request was read: hyper would close without an answer to it.
                if outcome.is_ready() || told || !state.is_draining || !state.began {
                    return outcome;
                }
                drop(state);
                told = true;
                Pin::new(&mut connection).graceful_shutdown();
                connection.poll_without_shutdown(context)
            })
            .await;
        }
        let parts = connection.into_parts();
        let ended = std::mem::take(&mut *turn.lock());
        if let Some(mut bytes) = ended.hand_back {
            bytes.extend_from_slice(&parts.read_buf);
            pipe.hand_back(bytes);
            return;
        }
        if ended.stalled {
            pipe.abort();
            return;
        }
        pipe.finish();
        let fetched = std::future::poll_fn(|context| pipe.poll_fetched(context));
        if tokio::time::timeout(self.request_timeout, fetched).await.is_err() {
            pipe.abort();
        }
    }

    /// The head of a request that belongs to the shard, rebuilt.
    fn belongs_to_shard(&self, request: &Request<Incoming>) -> Option<Vec<u8>> {
        if !request.headers().contains_key(header::UPGRADE)
            || !self.shard_paths.contains(&request.uri().path())
        {
            return None;
        }
        let head = rebuild_head(request);
        // The shard reads it with the same parser. Only if that comes to the same path may it have it, or the
        // connection could go to and fro for ever.
        let path_is_the_same = match handshake::parse_request(&head, &self.head_limits) {
            Ok(Some(parsed)) => self.shard_paths.contains(&parsed.path()),
            _ => false,
        };
        path_is_the_same.then_some(head)
    }
}

/// A request head with the same meaning as the one that was received: same line, same fields, same order of fields of
/// one name.
fn rebuild_head(request: &Request<Incoming>) -> Vec<u8> {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
    let mut head = Vec::with_capacity(512);
    head.extend_from_slice(request.method().as_str().as_bytes());
    head.push(b' ');
    head.extend_from_slice(target.as_bytes());
    head.extend_from_slice(if request.version() == hyper::Version::HTTP_10 {
        b" HTTP/1.0"
    } else {
        b" HTTP/1.1"
    });
    head.extend_from_slice(b"\r\n");
    for (name, value) in request.headers() {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// What the request loop and the pipe of one connection tell each other. Both run in one task: never contended.
#[derive(Debug, Default)]
struct Turn {
    inner: Mutex<TurnState>,
}

#[derive(Debug, Default)]
struct TurnState {
    /// Whether a request was read: the first one comes from the shard and never goes back to it.
    began: bool,
    /// The answer that comes next is the connection's last.
    is_draining: bool,
    /// How often hyper has written everything that it had to write.
    flushes: u64,
    /// Who waits for the next time.
    waits_for_flush: Option<Waker>,
    /// The head that goes back to the shard.
    hand_back: Option<Vec<u8>>,
    /// The client did not fetch its answer in time.
    stalled: bool,
}

impl Turn {
    fn lock(&self) -> MutexGuard<'_, TurnState> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ready when hyper has written everything that it had to write when this was first polled.
    async fn flushed(&self) {
        let mut seen = None;
        std::future::poll_fn(|context| {
            let mut state = self.lock();
            if state.flushes > *seen.get_or_insert(state.flushes) {
                return Poll::Ready(());
            }
            state.waits_for_flush = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// The request loop's service.
struct Requests {
    serving: Arc<Serving>,
    turn: Arc<Turn>,
}

/// Ends hyper's part without an answer: the request belongs to the shard.
#[derive(Debug, thiserror::Error)]
#[error("the request belongs to the shard")]
struct HandBack;

impl Service<Request<Incoming>> for Requests {
    type Response = Response<Body>;
    type Error = HandBack;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, HandBack>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let first = !std::mem::replace(&mut self.turn.lock().began, true);
        if !first && let Some(head) = self.serving.belongs_to_shard(&request) {
            let turn = Arc::clone(&self.turn);
            return Box::pin(async move {
                turn.flushed().await;
                turn.lock().hand_back = Some(head);
                Err(HandBack)
            });
        }
        let answer = self.serving.router.clone().oneshot(request.map(Body::new));
        let patience = self.serving.request_timeout;
        let turn = Arc::clone(&self.turn);
        Box::pin(async move {
            let mut response = match tokio::time::timeout(patience, answer).await {
                Ok(Ok(response)) => response,
                Err(_elapsed) => problem::timeout(patience),
            };
            if turn.lock().is_draining {
                response.headers_mut().insert(header::CONNECTION, header::HeaderValue::from_static("close"));
            }
            Ok(response)
        })
    }
}

/// A pipe as hyper wants to see it.
struct PipeIo {
    pipe: Arc<Pipe>,
    turn: Arc<Turn>,
    /// Runs while there is no room for the answer.
    stalled: Option<Pin<Box<Sleep>>>,
    patience: Duration,
}

impl hyper::rt::Read for PipeIo {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let room = buffer.remaining();
        let outcome = ready!(self.pipe.poll_read(context, room, |bytes| buffer.put_slice(bytes)));
        Poll::Ready(outcome.map(|_bytes| ()).map_err(|Gone| io::ErrorKind::ConnectionReset.into()))
    }
}

impl hyper::rt::Write for PipeIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.pipe.poll_write(context, bytes) {
            Poll::Ready(outcome) => {
                self.stalled = None;
                Poll::Ready(outcome.map_err(|Gone| io::ErrorKind::BrokenPipe.into()))
            }
            Poll::Pending => {
                let patience = self.patience;
                let sleep = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
                ready!(sleep.as_mut().poll(context));
                self.turn.lock().stalled = true;
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }

    /// What is in the pipe is written: the shard fetches it when its socket has room.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut turn = self.turn.lock();
        turn.flushes += 1;
        let waiting = turn.waits_for_flush.take();
        drop(turn);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
        Poll::Ready(Ok(()))
    }

    /// The end of the connection is [`Serving::serve`]'s to tell.
    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
