//! How do I use sessions in a gRPC service?
//!
//! Run `cargo run --example tonic`, and call it as `counter.proto` says. The example stores sessions in memory, or in Redis if
//! `REDIS_URL` is set. `PORT` sets the port; 3000 by default.
//!
//! The token travels in the metadata of the calls, since gRPC clients keep no cookies. The reply to `SignIn` carries it in
//! `x-session-token`, and the client sends it as `authorization: Bearer <token>` from then on:
//!
//! ```sh
//! call() { grpcurl -plaintext -import-path examples/tonic -proto counter.proto "$@"; }
//! call -v -d '{"name":"mia"}' 127.0.0.1:3000 counter.Counter/SignIn      # x-session-token: 5Dfv…
//! call -H 'authorization: Bearer 5Dfv…' -d '{"amount":1}' 127.0.0.1:3000 counter.Counter/Add
//! ```
//!
//! `counter.rs` is what `tonic-prost-build` makes of `counter.proto`. In a project of your own, let a build script do that.

use std::pin::Pin;

use futures_util::Stream;
use http::StatusCode;
use sessile::{
    MemoryStore, PeerAddress, RedisStore, Session, SessionError, SessionLayer, TokenHeader,
    Transport,
};
use tokio::sync::mpsc;
use tonic::transport::Server;
use tonic::transport::server::{TcpConnectInfo, TcpIncoming};
use tonic::{Code, Extensions, Request, Response, Status, Streaming};
use tower::util::MapRequestLayer;

use crate::counter::counter_server::{Counter, CounterServer};
use crate::counter::{AddRequest, Count, SignInReply, SignInRequest, SignOutReply, SignOutRequest};

#[allow(
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    clippy::use_self,
    reason = "generated from counter.proto"
)]
mod counter;

/// The session of a call by a client who is signed in. The layer puts it into the extensions, which tonic passes on.
async fn signed_in(extensions: &Extensions) -> Result<Session, Status> {
    let session = Session::from_extensions(extensions).await.map_err(status)?;
    session.require_principal().map_err(status)?;
    Ok(session)
}

/// What a gRPC client can do about the error. It may repeat a call that is `UNAVAILABLE`, and no other.
#[allow(clippy::needless_pass_by_value, reason = "for `map_err`")]
fn status(error: SessionError) -> Status {
    let code = match error.status() {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        StatusCode::FORBIDDEN => Code::PermissionDenied,
        StatusCode::CONFLICT => Code::Aborted,
        StatusCode::SERVICE_UNAVAILABLE => match error {
            SessionError::OutcomeUnknown => Code::Unknown,
            _ => Code::Unavailable,
        },
        _ => Code::Internal,
    };
    // The error itself is for the log: it names keys and settings.
    let text = error.response().into_body();
    Status::new(code, String::from_utf8_lossy(&text).trim_end())
}

struct Visits;

#[tonic::async_trait]
impl Counter for Visits {
    async fn sign_in(
        &self,
        request: Request<SignInRequest>,
    ) -> Result<Response<SignInReply>, Status> {
        let session = Session::from_extensions(request.extensions()).await;
        let session = session.map_err(status)?;
        // Check a password or a certificate here.
        let SignInRequest { name } = request.into_inner();
        session.set_principal(name).await.map_err(status)?;
        Ok(Response::new(SignInReply {}))
    }

    async fn sign_out(
        &self,
        request: Request<SignOutRequest>,
    ) -> Result<Response<SignOutReply>, Status> {
        signed_in(request.extensions()).await?.destroy();
        Ok(Response::new(SignOutReply {}))
    }

    async fn add(&self, request: Request<AddRequest>) -> Result<Response<Count>, Status> {
        let session = signed_in(request.extensions()).await?;
        let AddRequest { amount } = request.into_inner();
        if amount < 0 {
            // The HTTP status of an error is 200 as well, so that the layer commits what was changed: call
            // `session.discard_changes()` if there is something to drop.
            return Err(Status::invalid_argument("the amount is negative"));
        }
        let count = session.increment("count", amount).map_err(status)?;
        Ok(Response::new(Count { count }))
    }

    type AddManyStream = Pin<Box<dyn Stream<Item = Result<Count, Status>> + Send>>;

    async fn add_many(
        &self,
        request: Request<Streaming<AddRequest>>,
    ) -> Result<Response<Self::AddManyStream>, Status> {
        let session = signed_in(request.extensions()).await?;
        let mut amounts = request.into_inner();
        let (replies, stream) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok(Some(AddRequest { amount })) = amounts.message().await {
                let reply = add_now(&session, amount).await.map_err(status);
                let is_end = reply.is_err();
                if replies.send(reply).await.is_err() || is_end {
                    return;
                }
            }
        });
        let stream = futures_util::stream::unfold(stream, |mut stream| async move {
            Some((stream.recv().await?, stream))
        });
        Ok(Response::new(Box::pin(stream)))
    }
}

/// The head of a streaming response has left when its messages are sent: sessile commits nothing by itself any more. `save` commits,
/// and is an error once the client has signed out elsewhere.
async fn add_now(session: &Session, amount: i64) -> Result<Count, SessionError> {
    session.increment("count", amount)?;
    session.save().await?;
    let count = session.get("count")?.unwrap_or_default();
    Ok(Count { count })
}

/// For the layer, which compares the client's network.
fn with_peer<B>(mut request: http::Request<B>) -> http::Request<B> {
    let info = request.extensions().get::<TcpConnectInfo>();
    if let Some(peer) = info.and_then(TcpConnectInfo::remote_addr) {
        request.extensions_mut().insert(PeerAddress(peer.ip()));
    }
    request
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_env_filter("info,sessile=debug")
        .init();
    let sessions = match std::env::var("REDIS_URL") {
        Ok(url) => SessionLayer::new(RedisStore::from_url(url).await?),
        Err(_) => SessionLayer::new(MemoryStore::new()),
    };
    let sessions = sessions
        .with_transport(Transport::Header(TokenHeader::default()))?
        // An error of the session outside of a method, such as a commit that failed: its response is one that gRPC understands.
        .with_on_error(|error, _| status(error.clone()).into_http());

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("call http://{}", listener.local_addr()?);
    Server::builder()
        .layer(MapRequestLayer::new(with_peer))
        .layer(sessions)
        .add_service(CounterServer::new(Visits))
        .serve_with_incoming(TcpIncoming::from(listener))
        .await?;
    Ok(())
}
