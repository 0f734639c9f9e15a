//! Connections of one thread, each with one request at a time.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::Result;
use crate::driver::http::Response;

const TIMER: u64 = u64::MAX;

struct Line {
    stream: TcpStream,
    buffer: Vec<u8>,
}

pub struct Lines {
    epoll: Epoll,
    // A timer of its own, since the timeout of epoll has milliseconds only.
    timer: TimerFd,
    lines: Vec<Line>,
    events: Vec<EpollEvent>,
}

impl Lines {
    /// Opens this many connections, in turn to each address.
    pub fn open(addresses: &[SocketAddr], number: usize) -> Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::empty())?;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_NONBLOCK)?;
        epoll.add(&timer, EpollEvent::new(EpollFlags::EPOLLIN, TIMER))?;
        let mut lines = Vec::with_capacity(number);
        for (at, address) in (0..number).zip(addresses.iter().cycle()) {
            let stream = TcpStream::connect(address)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, at as u64))?;
            lines.push(Line {
                stream,
                buffer: Vec::new(),
            });
        }
        Ok(Self {
            epoll,
            timer,
            lines,
            events: vec![EpollEvent::empty(); number + 1],
        })
    }

    pub fn number(&self) -> usize {
        self.lines.len()
    }

    /// Sends a request on a connection that has none. A request is small enough for the socket's buffer.
    pub fn send(&mut self, at: usize, request: &[u8]) -> Result<()> {
        Ok(self.lines[at].stream.write_all(request)?)
    }

    /// Makes `receive` return after this long, even without a response.
    pub fn wake_after(&self, pause: Duration) -> Result<()> {
        let pause = TimeSpec::from_duration(pause.max(Duration::from_nanos(1)));
        let timer = Expiration::OneShot(pause);
        Ok(self.timer.set(timer, TimerSetTimeFlags::empty())?)
    }

    /// Waits for responses, and adds to `done` the connections that have one and whether it is accepted.
    pub fn receive(
        &mut self,
        accepts: impl Fn(&Response<'_>) -> bool,
        done: &mut Vec<(usize, bool)>,
    ) -> Result<()> {
        let ready = match self.epoll.wait(&mut self.events, EpollTimeout::NONE) {
            Err(Errno::EINTR) => 0,
            ready => ready?,
        };
        for event in &self.events[..ready] {
            if event.data() == TIMER {
                // Reads the number of expirations, so that the timer is no longer ready.
                let _ = self.timer.wait();
                continue;
            }
            let at = usize::try_from(event.data())?;
            if let Some(accepted) = self.lines[at].read(&accepts)? {
                done.push((at, accepted));
            }
        }
        Ok(())
    }
}

impl Line {
    fn read(&mut self, accepts: impl Fn(&Response<'_>) -> bool) -> Result<Option<bool>> {
        let mut chunk = [0; 8192];
        let read = match self.stream.read(&mut chunk) {
            Ok(0) => return Err("the peer closed a connection".into()),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Most responses arrive at once, and need no buffer.
        if self.buffer.is_empty()
            && let Some(response) = Response::parse(&chunk[..read])?
        {
            return Ok(Some(accepts(&response)));
        }
        self.buffer.extend(&chunk[..read]);
        let accepted = Response::parse(&self.buffer)?.map(|response| accepts(&response));
        if accepted.is_some() {
            self.buffer.clear();
        }
        Ok(accepted)
    }
}
