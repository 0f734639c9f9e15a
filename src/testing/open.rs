//! Opens a session by a request of its own, for a closure of the test.

use std::convert::Infallible;
use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::join;
use http::{HeaderMap, Request, Response, StatusCode};
use tokio::sync::oneshot;
use tower_layer::Layer as _;
use tower_service::Service;

use crate::error::session::SessionError;
use crate::lock::Lock;
use crate::middleware::layer::SessionLayer;
use crate::session::Session;
use crate::testing::outcome::Outcome;

/// Sends a request through the layer whose handler is the closure. Returns the result of the closure, and the headers of the
/// response. An error of the closure fails the request, which then commits nothing.
pub(crate) async fn open<O: Outcome>(
    layer: &SessionLayer,
    request: Request<()>,
    run: impl AsyncFnOnce(Session) -> O,
) -> Result<(O::Value, HeaderMap), SessionError> {
    let (open, opened) = oneshot::channel();
    let (finish, finished) = oneshot::channel();
    let handler = Handler(Arc::new(Lock::new(Some(Ends { open, finished }))));
    let response = layer.layer(handler).call(request);
    // The closure runs here and not in the handler, so that it may borrow from the test.
    let run = async {
        let result = match opened.await {
            Ok(Ok(session)) => Some(run(session).await.into_result()),
            Ok(Err(error)) => Some(Err(error)),
            // The layer has responded without its handler.
            Err(_) => None,
        };
        let _ = finish.send(matches!(result, Some(Ok(_))));
        result
    };
    let (Ok(response), result) = join(response, run).await;
    let failed = response.extensions().get::<SessionError>();
    match (result, failed) {
        (Some(Err(error)), _) => Err(error),
        (_, Some(error)) => Err(error.clone()),
        (Some(Ok(value)), None) => Ok((value, response.headers().clone())),
        (None, None) => Err(SessionError::MissingLayer),
    }
}

/// The text of an error with its causes.
pub(crate) fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

struct Ends {
    open: oneshot::Sender<Result<Session, SessionError>>,
    /// Whether the closure has succeeded.
    finished: oneshot::Receiver<bool>,
}

/// Hands its session out, and responds once the closure is done with it.
#[derive(Clone)]
struct Handler(Arc<Lock<Option<Ends>>>);

impl Service<Request<()>> for Handler {
    type Response = Response<()>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<()>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        let ends = self.0.lock().take();
        Box::pin(async move {
            let mut response = Response::new(());
            *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
            if let Some(Ends { open, finished }) = ends {
                let _ = open.send(Session::from_extensions(request.extensions()).await);
                if finished.await == Ok(true) {
                    *response.status_mut() = StatusCode::OK;
                }
            }
            Ok(response)
        })
    }
}
