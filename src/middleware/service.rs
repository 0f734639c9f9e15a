//! The tower service: takes one request through load, handler and commit.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use tower_service::Service;

use crate::config::policies::Load;
use crate::middleware::body::ResponseBody;
use crate::middleware::finish::{AbandonGuard, finish, reject};
use crate::middleware::parts::LayerParts;
use crate::middleware::slot::SessionSlot;

/// The service that [`SessionLayer`](crate::SessionLayer) creates. It loads the session, calls the inner service, and commits the
/// changes.
#[derive(Clone, Debug)]
pub struct SessionService<S> {
    inner: S,
    parts: LayerParts,
}

impl<S> SessionService<S> {
    pub(crate) fn new(inner: S, parts: LayerParts) -> Self {
        Self { inner, parts }
    }
}

impl<S, B, R> Service<Request<B>> for SessionService<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Send + 'static,
    B: Send + 'static,
    R: Send + 'static,
{
    type Response = Response<ResponseBody<R>>;
    type Error = S::Error;
    type Future = ResponseFuture<R, S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // Call the service that was polled ready: its clone may not be ready.
        let clone = self.inner.clone();
        let inner = std::mem::replace(&mut self.inner, clone);
        let parts = self.parts.clone();
        ResponseFuture::new(serve(parts, inner, request))
    }
}

async fn serve<S, B, R>(
    layer: LayerParts,
    mut inner: S,
    request: Request<B>,
) -> Result<Response<ResponseBody<R>>, S::Error>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    let (mut head, body) = request.into_parts();
    let Some(slot) = SessionSlot::begin(layer, &mut head) else {
        let response = inner.call(Request::from_parts(head, body)).await?;
        return Ok(response.map(ResponseBody::inner));
    };
    if slot.context.policy.config.load == Load::Inbound
        && let Err(error) = slot.session().await
        && slot.is_exclusive()
    {
        // In all other cases the slot keeps the error for a handler or middleware that asks for the session.
        return Ok(reject(&slot, &error));
    }
    let guard = AbandonGuard::new(&slot);
    let response = inner.call(Request::from_parts(head, body)).await?;
    let response = finish(&slot, response.map(ResponseBody::inner)).await;
    guard.disarm();
    Ok(response)
}

/// The response future of the services of this crate.
pub struct ResponseFuture<R, E>(Pin<Box<dyn Future<Output = ServiceResult<R, E>> + Send>>);

impl<R, E> ResponseFuture<R, E> {
    pub(crate) fn new(future: impl Future<Output = ServiceResult<R, E>> + Send + 'static) -> Self {
        Self(Box::pin(future))
    }
}

type ServiceResult<R, E> = Result<Response<ResponseBody<R>>, E>;

impl<R, E> Future for ResponseFuture<R, E> {
    type Output = ServiceResult<R, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl<R, E> fmt::Debug for ResponseFuture<R, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}
