//! The thread `admin-0`: one epoll loop over the listener and all connections.
//!
//! Nothing here blocks: reads and writes are tried, what is not ready is armed (one shot, so
//! that a closed peer never makes it spin), what takes time goes to `admin-1`. Bounds:
//! connections, bytes held of each, time in each state, steps a turn.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use polling::{Event, Events, Poller};

use super::connection::{Connection, Next};
use super::http::After;
use super::http::{Answer, HttpRequest, Status};
use super::routes::{Routed, Routes};
use super::worker::{Reply, Request, Token};
use crate::clock::Clock;
use crate::daemon::{Beat, Stop, Waits};
use crate::limits;

/// Key of the listener; connections have their slot's number.
const LISTENER: usize = limits::ADMIN_CONNECTIONS_MAX;

/// Steps a connection may take before the others have their turn.
const STEPS_A_TURN: usize = 64;

/// What the thread works with.
pub struct Admin {
    /// Bound by [`bind`].
    pub listener: TcpListener,
    /// Shared with `admin-1` and with whoever asks for the end.
    pub poller: Arc<Poller>,
    pub routes: Routes,
    pub requests: Sender<Request>,
    pub replies: Receiver<Reply>,
    pub clock: Arc<dyn Clock>,
    /// Asked for, and then `poller.notify()`, when this thread is to end.
    pub end: Stop,
}

/// Binds the admin address, ready for [`run`].
///
/// # Errors
/// As bind(2) and listen(2).
pub fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves until the end is asked for.
pub fn run(admin: Admin, beat: &Beat) {
    let mut server = Server::new(admin);
    if let Err(e) = server.listen() {
        log::error!("admin: the listener cannot be watched: {e}; metrics and health are gone");
        return;
    }
    let room = NonZeroUsize::new(limits::ADMIN_CONNECTIONS_MAX + 2).unwrap_or(NonZeroUsize::MIN);
    let mut events = Events::with_capacity(room);
    while !server.admin.end.asked() {
        let timeout = server.timeout();
        events.clear();
        beat.waits(Waits::Events);
        let waited = server.admin.poller.wait(&mut events, timeout);
        beat.busy();
        if let Err(e) = waited
            && e.kind() != ErrorKind::Interrupted
        {
            log::error!("admin: epoll failed: {e}; metrics and health are gone");
            break;
        }
        server.turn(&events);
    }
    server.close_all();
}

struct Slot {
    stream: TcpStream,
    http: Connection,
    generation: u64,
    /// Its turn ended before it had to wait.
    again: bool,
}

struct Server {
    admin: Admin,
    slots: Vec<Option<Slot>>,
    generation: u64,
    /// Accepting rests until then: descriptors had run out.
    accept_at: Option<Instant>,
    buffer: Vec<u8>,
}

impl Server {
    fn new(admin: Admin) -> Self {
        let slots = (0..limits::ADMIN_CONNECTIONS_MAX).map(|_| None).collect();
        let buffer = vec![0; limits::ADMIN_READ_BYTES];
        Self { admin, slots, generation: 0, accept_at: None, buffer }
    }

    fn listen(&self) -> io::Result<()> {
        // SAFETY: the listener lives in `self.admin` and is deleted in `close_all`, before it
        // is dropped.
        unsafe { self.admin.poller.add(&self.admin.listener, Event::readable(LISTENER)) }
    }

    /// Until the nearest deadline; None, with nothing to time, costs no wake-up at all.
    fn timeout(&self) -> Option<Duration> {
        if self.slots.iter().flatten().any(|s| s.again) {
            return Some(Duration::ZERO);
        }
        let deadlines = self.slots.iter().flatten().map(|s| s.http.deadline());
        let nearest = deadlines.chain(self.accept_at).min()?;
        Some(nearest.saturating_duration_since(self.admin.clock.now()))
    }

    fn turn(&mut self, events: &Events) {
        for event in events.iter() {
            if event.key == LISTENER {
                self.accept_all();
            } else {
                self.drive(event.key);
            }
        }
        while let Ok(reply) = self.admin.replies.try_recv() {
            self.reply(&reply);
        }
        let now = self.admin.clock.now();
        for number in 0..self.slots.len() {
            let Some(slot) = &mut self.slots[number] else { continue };
            let due = slot.http.deadline();
            if now >= due && !slot.http.expire(now) {
                self.close(number);
            } else if slot.again || now >= due {
                self.drive(number);
            }
        }
        if self.accept_at.is_some_and(|at| now >= at) {
            self.accept_at = None;
            self.accept_all();
        }
    }

    fn accept_all(&mut self) {
        // As many as there are slots: more than that at once wait for the next turn.
        for _ in 0..limits::ADMIN_CONNECTIONS_MAX {
            match self.admin.listener.accept() {
                Ok((stream, _)) => self.take(stream),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e)
                    if matches!(
                        e.kind(),
                        ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                    ) => {}
                Err(e) => {
                    // Descriptors or memory have run out: resting keeps this from spinning.
                    log::debug!("admin: accept failed: {e}; again in a second");
                    self.accept_at = Some(self.admin.clock.now() + limits::ADMIN_LINGER);
                    return;
                }
            }
        }
        let armed = self.admin.poller.modify(&self.admin.listener, Event::readable(LISTENER));
        if armed.is_err() {
            self.accept_at = Some(self.admin.clock.now() + limits::ADMIN_LINGER);
        }
    }

    fn take(&mut self, stream: TcpStream) {
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let _ = stream.set_nodelay(true);
        let Some(number) = self.slots.iter().position(Option::is_none) else {
            refuse(&stream);
            return;
        };
        // SAFETY: the stream lives in its slot and is deleted in `close`, before it is dropped.
        let added = unsafe { self.admin.poller.add(&stream, Event::none(number)) };
        if added.is_err() {
            return;
        }
        self.generation += 1;
        let http = Connection::new(self.admin.clock.now());
        self.slots[number] = Some(Slot { stream, http, generation: self.generation, again: false });
        self.drive(number);
    }

    fn reply(&mut self, reply: &Reply) {
        let now = self.admin.clock.now();
        let Some(slot) = self.slots[reply.to.slot].as_mut() else { return };
        if slot.generation == reply.to.generation {
            slot.http.answer(&reply.answer, now);
            slot.again = true;
        }
    }

    /// Moves a connection on until it has to wait, or its turn is over.
    fn drive(&mut self, number: usize) {
        for _ in 0..STEPS_A_TURN {
            let now = self.admin.clock.now();
            let Some(slot) = &mut self.slots[number] else { return };
            slot.again = false;
            let moved = match slot.http.step(now) {
                Next::Read => read(slot, &mut self.buffer),
                Next::Write => write(slot),
                Next::Wait => return,
                Next::Linger => match slot.stream.shutdown(Shutdown::Write) {
                    Ok(()) => Moved::On,
                    Err(_) => Moved::Over,
                },
                Next::Serve(request) => {
                    self.serve(number, &request, now);
                    Moved::On
                }
            };
            match moved {
                Moved::On => {}
                Moved::Over => return self.close(number),
                Moved::Blocked(wants) => return self.arm(number, wants),
            }
        }
        if let Some(slot) = &mut self.slots[number] {
            slot.again = true;
        }
    }

    fn serve(&mut self, number: usize, request: &HttpRequest, now: Instant) {
        let routed = self.admin.routes.route(request);
        let Some(slot) = &mut self.slots[number] else { return };
        match routed {
            Routed::Answer(answer) => slot.http.answer(&answer, now),
            Routed::Ask(task) => {
                let reply_to = Token { slot: number, generation: slot.generation };
                match self.admin.requests.try_send(Request { task, reply_to }) {
                    Ok(()) => slot.http.asked(now),
                    Err(_) => slot.http.answer(&Answer::bare(Status::UNAVAILABLE), now),
                }
            }
        }
    }

    fn arm(&mut self, number: usize, wants: Wants) {
        let Some(slot) = &self.slots[number] else { return };
        let interest = match wants {
            Wants::Readable => Event::readable(number),
            Wants::Writable => Event::writable(number),
        };
        if self.admin.poller.modify(&slot.stream, interest).is_err() {
            self.close(number);
        }
    }

    fn close(&mut self, number: usize) {
        if let Some(slot) = self.slots[number].take() {
            // It fails only for what was never added.
            let _ = self.admin.poller.delete(&slot.stream);
        }
    }

    fn close_all(&mut self) {
        for number in 0..self.slots.len() {
            self.close(number);
        }
        let _ = self.admin.poller.delete(&self.admin.listener);
    }
}

enum Wants {
    Readable,
    Writable,
}

enum Moved {
    On,
    Blocked(Wants),
    Over,
}

fn read(slot: &mut Slot, buffer: &mut [u8]) -> Moved {
    let room = slot.http.room().min(buffer.len());
    match slot.stream.read(&mut buffer[..room]) {
        Ok(0) => Moved::Over,
        Ok(n) => {
            slot.http.take(&buffer[..n]);
            Moved::On
        }
        Err(e) => blocked(&e, Wants::Readable),
    }
}

fn write(slot: &mut Slot) -> Moved {
    match slot.stream.write(slot.http.unsent()) {
        Ok(0) => Moved::Over,
        Ok(n) => {
            slot.http.sent(n);
            Moved::On
        }
        Err(e) => blocked(&e, Wants::Writable),
    }
}

fn blocked(e: &io::Error, wants: Wants) -> Moved {
    match e.kind() {
        ErrorKind::WouldBlock => Moved::Blocked(wants),
        ErrorKind::Interrupted => Moved::On,
        _ => Moved::Over,
    }
}

/// No slot is free: says so, as far as that goes without waiting.
fn refuse(mut stream: &TcpStream) {
    let answer = Answer::text(Status::UNAVAILABLE, "too many connections");
    let _ = stream.write(&answer.encode(false, After::Close));
    let _ = stream.shutdown(Shutdown::Write);
    let mut scrap = [0u8; 4096];
    let _ = stream.read(&mut scrap);
}

#[cfg(test)]
mod tests;
