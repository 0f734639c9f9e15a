//! Opens sockets, and sends requests over them.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::task::Poll;

use futures_util::future::select_ok;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, RedisError, Value};
use tokio::net::{TcpStream, lookup_host};
use tokio_util::task::AbortOnDropHandle;

use crate::store::redis::credentials::{Credentials, log_in};
use crate::store::redis::request::Request;

/// One socket.
#[derive(Clone)]
pub(crate) struct Link {
    connection: MultiplexedConnection,
    /// How many requests wait for their replies.
    in_flight: Arc<AtomicUsize>,
    /// Writes and reads the socket; unless the client has a task of its own for that.
    _driver: Option<Arc<AbortOnDropHandle<()>>>,
}

impl Link {
    pub(crate) async fn open(
        server: ConnectionInfo,
        config: &AsyncConnectionConfig,
        credentials: Option<&Credentials>,
    ) -> Result<Self, RedisError> {
        let server = log_in(server, credentials);
        let in_flight = Arc::default();
        let ConnectionAddr::Tcp(host, port) = server.addr() else {
            let client = Client::open(server)?;
            let connecting = client.get_multiplexed_async_connection_with_config(config);
            return Ok(Self {
                connection: connecting.await?,
                in_flight,
                _driver: None,
            });
        };
        let socket = connect(host, *port).await?;
        let (info, config) = (server.redis_settings(), config.clone());
        let (connection, driver) =
            MultiplexedConnection::new_with_config(info, socket, config).await?;
        let driver = tokio::spawn(gather(driver, Arc::clone(&in_flight)));
        Ok(Self {
            connection,
            in_flight,
            _driver: Some(Arc::new(AbortOnDropHandle::new(driver))),
        })
    }

    pub(crate) async fn send(&mut self, request: &Request<'_>) -> Result<Value, RedisError> {
        let _counted = Counted::new(&self.in_flight);
        match request {
            Request::Command(command) => self.connection.send_packed_command(command).await,
            Request::Pipeline(pipeline) => {
                let replies = self
                    .connection
                    .send_packed_commands(pipeline, 0, pipeline.len());
                replies.await.map(Value::Array)
            }
        }
    }
}

/// A request that waits for its reply.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(in_flight: &'a AtomicUsize) -> Self {
        in_flight.fetch_add(1, Relaxed);
        Self(in_flight)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Connects to the first address of the host that answers.
async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let addresses = lookup_host((host, port)).await?;
    let attempts: Vec<_> = addresses
        .map(|to| Box::pin(TcpStream::connect(to)))
        .collect();
    if attempts.is_empty() {
        let message = format!("{host} has no address");
        return Err(io::Error::new(io::ErrorKind::NotFound, message));
    }
    let (socket, _) = select_ok(attempts).await?;
    // Registered anew, the socket is not read before the first command is under way. A server that has too many clients says so
    // at once and closes it: read earlier, that would be the reply to no command, and its reason would be lost.
    TcpStream::from_std(socket.into_std()?)
}

/// Lets the tasks that are ready now run before the socket is written, while several requests are in flight: what they send
/// travels in one packet. tokio would run the driver at once after each of them, which costs both sides a system call a command.
fn gather(
    driver: impl Future<Output = ()> + 'static,
    in_flight: Arc<AtomicUsize>,
) -> impl Future<Output = ()> {
    let (mut driver, mut has_waited) = (Box::pin(driver), false);
    std::future::poll_fn(move |context| {
        has_waited = !has_waited && in_flight.load(Relaxed) > 1;
        if has_waited {
            // Puts this task behind the others.
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        driver.as_mut().poll(context)
    })
}
