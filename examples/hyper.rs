//! How do I use sessions in a tower service without axum, served by hyper?
//!
//! Run `cargo run --example hyper` and open the address that it prints. The example stores sessions in memory, or in Redis if
//! `REDIS_URL` is set. `PORT` sets the port; 3000 by default.

use std::convert::Infallible;
use std::time::Duration;

use bytes::Bytes;
use http::{Extensions, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use sessile::{MemoryStore, PeerAddress, RedisStore, Session, SessionError, SessionLayer};
use tower::ServiceBuilder;

fn visits(session: &Session) -> Result<String, SessionError> {
    let n = session.increment("visits", 1)?;
    // `Match` from the second visit on, if the server has supplied the client's address.
    let network = session.fingerprint();
    Ok(format!("visit {n}, network: {network:?}\n"))
}

async fn sign_in(session: &Session) -> Result<String, SessionError> {
    session.set_principal("mia").await?;
    Ok("Hello, mia\n".to_owned())
}

fn sign_out(session: &Session) -> String {
    session.destroy();
    "Goodbye\n".to_owned()
}

/// The session comes from the extensions of the request. Borrow these across an `await` and not the request, whose body need not be
/// `Sync`.
async fn route(
    method: &Method,
    path: &str,
    extensions: &Extensions,
) -> Result<Response<Full<Bytes>>, SessionError> {
    let session = Session::from_extensions(extensions).await?;
    let text = match (method, path) {
        (&Method::GET, "/") => visits(&session)?,
        (&Method::GET, "/whoami") => session.require_principal()?,
        (&Method::POST, "/sign-in") => sign_in(&session).await?,
        (&Method::POST, "/sign-out") => sign_out(&session),
        _ => {
            let mut response = Response::new(Full::from("There is nothing here.\n"));
            *response.status_mut() = StatusCode::NOT_FOUND;
            return Ok(response);
        }
    };
    Ok(Response::new(Full::from(text)))
}

async fn handle(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let (parts, _body) = request.into_parts();
    let answer = route(&parts.method, parts.uri.path(), &parts.extensions).await;
    // `into_http` tells the layer about the error, so that it drops what the failed request has changed.
    Ok(answer.unwrap_or_else(SessionError::into_http))
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
    // This allows plain HTTP for a trial; remove the call in production.
    let sessions = sessions.insecure_for_localhost();

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("open http://{}", listener.local_addr()?);
    loop {
        let (connection, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            // The client has left, or too many files are open: other connections may end meanwhile.
            Err(error) => {
                tracing::warn!(%error, "a connection was not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let service = ServiceBuilder::new()
            // Before the session layer, which compares the client's network. With axum, `ConnectInfo` does this.
            .map_request(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(PeerAddress(peer.ip()));
                request
            })
            .layer(sessions.clone())
            .service_fn(handle);
        tokio::spawn(async move {
            let service = TowerToHyperService::new(service);
            let server = auto::Builder::new(TokioExecutor::new());
            let connection = TokioIo::new(connection);
            if let Err(error) = server.serve_connection(connection, service).await {
                tracing::debug!(%error, "a connection ended");
            }
        });
    }
}
