//! The span of one round trip to Redis, by the semantic conventions of OpenTelemetry for Redis clients, version 1.45.0.

use std::fmt;

use redis::{Arg, Cmd, ConnectionAddr, ConnectionInfo, Value};
use tracing::Span;
use tracing::field::Empty;

use crate::store::redis::connector::Target;
use crate::store::redis::error::{ConnectionFault, RequestError};
use crate::store::redis::request::Request;

/// The server as the settings name it; the sentinels that name it, if there are some.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    address: String,
    port: Option<u16>,
    database: i64,
}

impl Peer {
    pub(crate) fn of(to: &Target) -> Self {
        match to {
            Target::Server(info) => Self::of_server(info),
            Target::Sentinels(sentinels) => Self {
                address: sentinels.to_string(),
                port: None,
                database: sentinels.database(),
            },
        }
    }

    fn of_server(info: &ConnectionInfo) -> Self {
        let (address, port) = match info.addr() {
            ConnectionAddr::Tcp(host, port) | ConnectionAddr::TcpTls { host, port, .. } => {
                (host.clone(), Some(*port))
            }
            other => (other.to_string(), None),
        };
        Self {
            address,
            port,
            database: info.redis_settings().db(),
        }
    }

    /// The span of a request that is sent to this server now.
    pub(crate) fn span(&self, request: &Request<'_>) -> Span {
        tracing::debug_span!(
            target: "sessile::redis",
            "redis",
            otel.name = %Operation(request),
            otel.kind = "client",
            db.system.name = "redis",
            db.operation.name = %Operation(request),
            db.operation.batch.size = batch_size(request),
            db.namespace = %self.database,
            server.address = self.address,
            server.port = self.port,
            db.response.status_code = Empty,
            "error.type" = Empty,
            otel.status_code = Empty,
        )
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) if self.address.contains(':') => write!(f, "[{}]:{port}", self.address),
            Some(port) => write!(f, "{}:{port}", self.address),
            None => f.write_str(&self.address),
        }
    }
}

/// Records how the request has ended.
pub(crate) fn record(span: &Span, answer: &Result<Value, RequestError>) {
    if span.is_disabled() {
        return;
    }
    let (code, other) = match answer {
        Ok(value) => (code_of_pipeline(value), None),
        Err(RequestError {
            code: Some(code), ..
        }) => (Some(code.as_str()), None),
        Err(failed) => (None, Some(fault(failed.fault))),
    };
    span.record("db.response.status_code", code);
    if let Some(error) = code.or(other) {
        span.record("error.type", error);
        span.record("otel.status_code", "ERROR");
    }
}

fn fault(fault: Option<ConnectionFault>) -> &'static str {
    match fault {
        Some(ConnectionFault::Silent) => "timeout",
        Some(ConnectionFault::Dropped) => "connection_closed",
        None => "_OTHER",
    }
}

/// The first error among the replies of a pipeline.
fn code_of_pipeline(value: &Value) -> Option<&str> {
    let Value::Array(replies) = value else {
        return None;
    };
    replies.iter().find_map(|reply| match reply {
        Value::ServerError(error) => Some(error.code()),
        _ => None,
    })
}

fn batch_size(request: &Request<'_>) -> Option<usize> {
    match request {
        Request::Pipeline(pipeline) if pipeline.len() > 1 => Some(pipeline.len()),
        Request::Command(_) | Request::Pipeline(_) => None,
    }
}

/// `db.operation.name`: the command, without its arguments, which name the session. A pipeline of equal commands names them.
struct Operation<'a>(&'a Request<'a>);

impl fmt::Display for Operation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pipeline = match self.0 {
            Request::Command(command) => return f.write_str(name(command)),
            Request::Pipeline(pipeline) => pipeline,
        };
        let mut names = pipeline.cmd_iter().map(name);
        let first = names.next().unwrap_or_default();
        match (pipeline.len(), names.all(|it| it == first)) {
            (1, _) => f.write_str(first),
            (_, true) => write!(f, "PIPELINE {first}"),
            (_, false) => f.write_str("PIPELINE"),
        }
    }
}

fn name(command: &Cmd) -> &str {
    match command.args_iter().next() {
        Some(Arg::Simple(name)) => std::str::from_utf8(name).unwrap_or_default(),
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use redis::IntoConnectionInfo as _;

    use super::*;

    fn peer(url: &str) -> Peer {
        Peer::of_server(&url.into_connection_info().unwrap())
    }

    #[test]
    fn a_server_is_named_without_user_and_password() {
        for (url, shown, port, database) in [
            (
                "redis://mia:tulip@db.example/5",
                "db.example:6379",
                Some(6379),
                5,
            ),
            ("redis://[::1]:7000/", "[::1]:7000", Some(7000), 0),
            (
                "unix:///run/redis.sock?pass=tulip&db=2",
                "/run/redis.sock",
                None,
                2,
            ),
        ] {
            let peer = peer(url);
            assert_eq!(peer.to_string(), shown, "{url}");
            assert_eq!((peer.port, peer.database), (port, database), "{url}");
        }
    }

    #[test]
    fn an_operation_is_the_command_without_its_arguments() {
        let mut get = redis::cmd("GET");
        get.arg("sessile:AAAA");
        assert_eq!(Operation(&Request::Command(&get)).to_string(), "GET");
        let mut pipeline = redis::pipe();
        pipeline.add_command(get.clone());
        for (more, expected, size) in [
            (None, "GET", None),
            (Some("GET"), "PIPELINE GET", Some(2)),
            (Some("PTTL"), "PIPELINE", Some(3)),
        ] {
            if let Some(more) = more {
                pipeline.cmd(more).arg("sessile:AAAA");
            }
            let request = Request::Pipeline(&pipeline);
            assert_eq!(Operation(&request).to_string(), expected);
            assert_eq!(batch_size(&request), size);
        }
    }
}
