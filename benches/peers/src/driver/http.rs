//! As much of HTTP/1.1 as the driver speaks: requests without a body, and responses with a `Content-Length`.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::Result;

const HANGS: Duration = Duration::from_secs(60);

/// The bytes of a request.
pub fn request(path: &str, cookie: &str) -> Vec<u8> {
    let cookie = match cookie {
        "" => String::new(),
        cookie => format!("cookie: {cookie}\r\n"),
    };
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{cookie}\r\n").into_bytes()
}

/// A response at the start of a buffer.
#[derive(Debug)]
pub struct Response<'b> {
    pub status: u16,
    pub body: &'b [u8],
    /// How many bytes of the buffer it takes.
    pub length: usize,
    head: &'b [u8],
}

impl<'b> Response<'b> {
    /// The response, once it is complete.
    pub fn parse(buffer: &'b [u8]) -> Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(head) = response.parse(buffer)? else {
            return Ok(None);
        };
        let is_length =
            |header: &&httparse::Header<'_>| header.name.eq_ignore_ascii_case("content-length");
        let length = match response.headers.iter().find(is_length) {
            Some(length) => std::str::from_utf8(length.value)?.parse()?,
            None => 0,
        };
        let status = response.code.ok_or("a response without a status")?;
        Ok(buffer.get(head..head + length).map(|body| Self {
            status,
            body,
            length: head + length,
            head: &buffer[..head],
        }))
    }

    /// The `Cookie` header that sends the cookies of this response back.
    pub fn cookies(&self) -> Result<String> {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut response = httparse::Response::new(&mut headers);
        response.parse(self.head)?;
        let mut cookies = Vec::new();
        for header in response.headers {
            if header.name.eq_ignore_ascii_case("set-cookie") {
                let cookie = std::str::from_utf8(header.value)?;
                cookies.push(cookie.split(';').next().unwrap_or_default());
            }
        }
        Ok(cookies.join("; "))
    }
}

/// A connection on which one request follows the other.
pub struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
    answered: usize,
}

impl Client {
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(HANGS))?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream,
            buffer: Vec::new(),
            answered: 0,
        })
    }

    /// Sends a request, and waits for its response.
    pub fn send(&mut self, request: &[u8]) -> Result<Response<'_>> {
        self.buffer.drain(..self.answered);
        self.stream.write_all(request)?;
        loop {
            let mut chunk = [0; 4096];
            match self.stream.read(&mut chunk)? {
                0 => return Err("the peer closed the connection".into()),
                read => self.buffer.extend(&chunk[..read]),
            }
            if let Some(response) = Response::parse(&self.buffer)? {
                self.answered = response.length;
                break;
            }
        }
        Response::parse(&self.buffer)?.ok_or_else(|| "incomplete".into())
    }

    /// The body of a response with status 200.
    pub fn get(&mut self, path: &str, cookie: &str) -> Result<String> {
        let response = self.send(&request(path, cookie))?;
        let body = String::from_utf8_lossy(response.body).into_owned();
        match response.status {
            200 => Ok(body),
            status => Err(format!("{path}: {status} {body}").into()),
        }
    }
}
