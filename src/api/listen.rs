//! The listening socket: a bounded number of connections at once; further ones wait in the system's queue.
//!
//! So that nobody keeps a place for nothing, a connection ends when its request does not come to its end in time, when
//! nothing is asked on it for long, and when its client does not read what it is sent.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep, sleep};

/// How long a client may keep its place.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Time from the first byte of a request to the first byte of its answer; more than a query may wait and run.
    pub(super) request: Duration,
    /// Time without a byte in either direction; more than lies between two signs of life of the live stream.
    pub(super) idle: Duration,
    /// Time in which a client has to take something of what it is sent.
    pub(super) write: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { request: Duration::from_secs(20), idle: Duration::from_mins(1), write: Duration::from_secs(20) }
    }
}

/// A listener that accepts while fewer than its bound are connected.
pub(super) struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
    limits: Limits,
}

impl Bounded {
    pub(super) fn new(listener: TcpListener, connections_max: usize, limits: Limits) -> Self {
        Self { listener, places: Arc::new(Semaphore::new(connections_max)), limits }
    }
}

impl Listener for Bounded {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        let place = self.places.clone().acquire_owned().await.expect("invariant: the semaphore is never closed");
        let (stream, address) = Listener::accept(&mut self.listener).await;
        // Live events are small and must not wait for the next one.
        let _ = stream.set_nodelay(true);
        (Connection::new(stream, place, self.limits), address)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection and its place among the bounded number.
pub(super) struct Connection {
    stream: TcpStream,
    limits: Limits,
    /// When a request began to come that has no answer yet.
    asked: Option<Instant>,
    /// When a byte last went either way.
    moved: Instant,
    /// When the client began to take nothing of what it is sent.
    stuck: Option<Instant>,
    reads: Pin<Box<Sleep>>,
    writes: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Connection {
    fn new(stream: TcpStream, place: OwnedSemaphorePermit, limits: Limits) -> Self {
        let alarm = || Box::pin(sleep(limits.idle));
        let (reads, writes) = (alarm(), alarm());
        Self { stream, limits, asked: None, moved: Instant::now(), stuck: None, reads, writes, _place: place }
    }

    /// Nothing came: waits for the end of the client's time as well.
    fn wait_for_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let deadline = self.asked.map_or(self.moved + self.limits.idle, |asked| asked + self.limits.request);
        elapsed(&mut self.reads, deadline, cx)
    }

    /// What a write came to: notes what went, or waits for the end of the client's time as well.
    fn wrote(&mut self, written: Poll<io::Result<usize>>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let now = Instant::now();
        if written.is_ready() {
            (self.asked, self.moved, self.stuck) = (None, now, None);
            return written;
        }
        let deadline = *self.stuck.get_or_insert(now) + self.limits.write;
        Poll::Ready(Err(ready!(elapsed(&mut self.writes, deadline, cx))))
    }
}

/// Ready once `deadline` has passed.
fn elapsed(alarm: &mut Pin<Box<Sleep>>, deadline: Instant, cx: &mut Context<'_>) -> Poll<io::Error> {
    if alarm.deadline() != deadline {
        alarm.as_mut().reset(deadline);
    }
    alarm.as_mut().poll(cx).map(|()| io::ErrorKind::TimedOut.into())
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Ready(read) => {
                if buffer.filled().len() > before {
                    let now = Instant::now();
                    self.moved = now;
                    // A client that sends its request byte by byte has no more time than another.
                    if now > *self.asked.get_or_insert(now) + self.limits.request {
                        return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                    }
                }
                Poll::Ready(read)
            }
            Poll::Pending => Poll::Ready(Err(ready!(self.wait_for_read(cx)))),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(written, cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.wrote(written, cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn one_more_than_the_bound_waits_until_another_has_left() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut bounded = Bounded::new(listener, 1, Limits::default());
        let address = bounded.local_addr().expect("an address");
        let mut clients = Vec::new();
        for _ in 0..2 {
            clients.push(TcpStream::connect(address).await.expect("the system queues it"));
        }
        let (mut first, _) = bounded.accept().await;
        first.write_all(b"x").await.expect("connected");
        assert!(timeout(Duration::from_millis(100), bounded.accept()).await.is_err(), "a second one was let in");
        drop(first);
        timeout(Duration::from_secs(10), bounded.accept()).await.expect("the place is free");
    }

    const SHORT: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_mins(10);

    /// A connection under `limits`, and its client.
    async fn connected(limits: Limits) -> (Connection, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let mut bounded = Bounded::new(listener, 1, limits);
        let address = bounded.local_addr().expect("an address");
        let client = TcpStream::connect(address).await.expect("connects");
        (bounded.accept().await.0, client)
    }

    async fn timed_out<T: std::fmt::Debug>(work: impl Future<Output = io::Result<T>>) {
        let done = timeout(Duration::from_secs(10), work).await.expect("ends in time");
        assert_eq!(done.expect_err("a failure").kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test]
    async fn a_client_that_asks_nothing_or_half_a_request_does_not_keep_its_place() {
        let (mut connection, _client) = connected(Limits { request: LONG, idle: SHORT, write: LONG }).await;
        timed_out(connection.read_u8()).await;

        let (mut connection, mut client) = connected(Limits { request: SHORT, idle: LONG, write: LONG }).await;
        client.write_all(b"G").await.expect("sent");
        assert_eq!(connection.read_u8().await.expect("a byte"), b'G');
        timed_out(connection.read_u8()).await;
    }

    #[tokio::test]
    async fn a_client_that_sends_byte_by_byte_has_no_more_time_than_another() {
        let (mut connection, mut client) = connected(Limits { request: SHORT, idle: LONG, write: LONG }).await;
        let trickle = tokio::spawn(async move { while client.write_all(b"G").await.is_ok() {} });
        let read_on = async {
            loop {
                if let Err(error) = connection.read_u8().await {
                    return io::Result::<()>::Err(error);
                }
            }
        };
        timed_out(read_on).await;
        drop(connection);
        trickle.await.expect("ends with the connection");
    }

    #[tokio::test]
    async fn an_answer_gives_the_next_request_its_own_time_and_a_client_that_reads_nothing_loses_its_place() {
        let (mut connection, mut client) = connected(Limits { request: LONG, idle: LONG, write: SHORT }).await;
        client.write_all(b"G").await.expect("sent");
        assert_eq!(connection.read_u8().await.expect("a byte"), b'G');
        connection.write_all(b"x").await.expect("taken");
        assert!(connection.asked.is_none());
        let flood = vec![b'x'; 1 << 20];
        let write_on = async {
            loop {
                if let Err(error) = connection.write_all(&flood).await {
                    return io::Result::<()>::Err(error);
                }
            }
        };
        timed_out(write_on).await;
    }
}
