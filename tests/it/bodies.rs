//! Response bodies: the layer accepts any body type, and passes bodies on unchanged.

use std::convert::Infallible;
use std::fmt::Debug;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body as AxumBody;
use axum::http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use bytes::{Buf as _, BufMut as _, Bytes};
use futures_util::future::BoxFuture;
use futures_util::stream;
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use sessile::{
    Concurrency, Exclusive, MemoryStore, RedisConfig, RedisStore, ResponseBody, Session,
    SessionConfig, SessionError, SessionLayer,
};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::{Layer as _, Service, ServiceBuilder, ServiceExt as _};
use tower_http::compression::CompressionLayer;
use tower_http::cors::CorsLayer;

/// A handler that counts the session's requests in the header `n`, and answers with this body.
fn counting<B: Send + 'static>(
    body: fn() -> B,
) -> impl Service<Request<()>, Response = Response<B>, Error = Infallible, Future: Send> + Clone + Send
{
    tower::service_fn(move |request: Request<()>| async move {
        let (parts, ()) = request.into_parts();
        let session = Session::from_parts(&parts).await.unwrap();
        if parts.uri.path() == "/cycle" {
            session.cycle_id().unwrap();
        }
        let n = session.increment("n", 1).unwrap();
        Ok(Response::builder().header("n", n).body(body()).unwrap())
    })
}

fn layer() -> SessionLayer {
    SessionLayer::new(MemoryStore::new())
}

/// A layer whose store is unavailable, and which rejects requests with a session cookie for that reason.
fn layer_without_a_store() -> SessionLayer {
    let store = RedisStore::lazy(RedisConfig::new("redis://127.0.0.1:1/")).unwrap();
    let exclusive = Exclusive::new(Duration::from_secs(1));
    SessionLayer::new(store).with_concurrency(Concurrency::Exclusive(exclusive))
}

fn cookie(response: &Response<impl Sized>) -> Option<String> {
    let cookie = response.headers().get(header::SET_COOKIE)?;
    let pair = cookie.to_str().unwrap().split(';').next();
    pair.map(str::to_owned)
}

async fn get<S, B>(service: &S, path: &str, cookie: Option<&str>) -> Response<B>
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible> + Clone,
{
    let mut request = Request::get(path).header(header::ACCEPT_ENCODING, "gzip");
    if let Some(cookie) = cookie {
        request = request.header(header::COOKIE, cookie);
    }
    let request = request.body(()).unwrap();
    service.clone().oneshot(request).await.unwrap()
}

/// Reads a body, whose size must be known in advance.
async fn read<B: Body<Data = Bytes, Error: Debug>>(response: Response<B>) -> Bytes {
    let body = response.into_body();
    let size = body.size_hint().exact();
    let read = body.collect().await.unwrap().to_bytes();
    assert_eq!(size, Some(read.len() as u64));
    read
}

/// Sends requests that the inner service answers, and one that the layer answers.
async fn serves<S, B>(service: S, text: &str)
where
    S: Service<Request<()>, Response = Response<ResponseBody<B>>, Error = Infallible> + Clone,
    B: Body<Data = Bytes, Error: Debug>,
{
    let first = get(&service, "/", None).await;
    let retired = cookie(&first).unwrap();
    assert_eq!(first.headers()["n"], "1");
    assert_eq!(first.body().is_end_stream(), text.is_empty());
    assert_eq!(read(first).await, text);
    let second = get(&service, "/cycle", Some(&retired)).await;
    assert_eq!(second.headers()["n"], "2");
    assert_eq!(read(second).await, text);

    let refused = get(&service, "/", Some(&retired)).await;
    assert_eq!(refused.status(), StatusCode::CONFLICT);
    assert!(!refused.body().is_end_stream());
    let (error, expected) = (refused.extensions().get::<SessionError>(), "rotated");
    assert!(error.unwrap().to_string().contains(expected));
    let refused = read(refused).await;
    assert!(!refused.is_empty() && refused != text);
}

#[tokio::test]
async fn a_response_may_have_a_body_of_any_type() {
    let full = || Full::new(Bytes::from_static(b"full"));
    let boxed = || BoxBody::new(Full::new(Bytes::from_static(b"boxed")));
    serves(layer().layer(counting(full)), "full").await;
    serves(layer().layer(counting(boxed)), "boxed").await;
    serves(layer().layer(counting(Empty::<Bytes>::new)), "").await;
    serves(layer().layer(counting(String::new)), "").await;
    serves(layer().layer(counting(|| AxumBody::from("axum"))), "axum").await;

    // Not even a body that is `Send`.
    struct Unsent;
    let response = get(&layer().layer(counting(|| Unsent)), "/", None).await;
    assert!(cookie(&response).is_some());
    let response: Response<ResponseBody<Unsent>> = response;
    assert_eq!(format!("{:?}", response.body()), "ResponseBody { .. }");
}

#[tokio::test]
async fn a_rejected_request_gets_the_layers_own_body() {
    let full = || Full::new(Bytes::from_static(b"full"));
    let service = layer_without_a_store().layer(counting(full));
    let cookie = format!("__Host-id={}", "A".repeat(43));
    let response = get(&service, "/", Some(&cookie)).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(!read(response).await.is_empty());
    let empty = ResponseBody::<Full<Bytes>>::default();
    assert!(empty.is_end_stream());
    assert_eq!(read(Response::new(empty)).await, "");
}

#[tokio::test]
async fn layers_that_change_the_body_work_inside_and_outside() {
    let page = || Full::new(Bytes::from_static(&[b'a'; 10_000]));
    let service = ServiceBuilder::new()
        .layer(CorsLayer::permissive())
        .layer(layer())
        .layer(CompressionLayer::new())
        .service(counting(page));
    let first = get(&service, "/", None).await;
    let retired = cookie(&first).unwrap();
    let second = get(&service, "/cycle", Some(&retired)).await;
    for (response, n) in [(first, "1"), (second, "2")] {
        assert_eq!(response.headers()["n"], n);
        assert_eq!(response.headers()["access-control-allow-origin"], "*");
        assert_eq!(response.headers()["content-encoding"], "gzip");
        let zipped = response.into_body().collect().await.unwrap().to_bytes();
        assert!(zipped.starts_with(&[0x1f, 0x8b]) && zipped.len() < 1000);
    }
    let refused = get(&service, "/", Some(&retired)).await;
    assert_eq!(refused.status(), StatusCode::CONFLICT);
    assert!(!refused.headers().contains_key("content-encoding"));
    let text = refused.into_body().collect().await.unwrap().to_bytes();
    assert!(std::str::from_utf8(&text).is_ok_and(|text| !text.is_empty()));

    let outside = ServiceBuilder::new()
        .layer(CompressionLayer::new())
        .layer(layer())
        .service(counting(page));
    let first = get(&outside, "/", None).await;
    assert!(cookie(&first).is_some());
    assert_eq!(first.headers()["content-encoding"], "gzip");
}

#[tokio::test]
async fn frames_trailers_and_errors_of_the_body_pass_through() {
    fn trailers() -> HeaderMap {
        HeaderMap::from_iter([(header::ETAG, HeaderValue::from_static("x"))])
    }
    let frames = || {
        let frames = [
            Ok::<_, String>(Frame::data(Bytes::from_static(b"one"))),
            Ok(Frame::data(Bytes::from_static(b"two"))),
            Ok(Frame::trailers(trailers())),
        ];
        StreamBody::new(stream::iter(frames))
    };
    let body = get(&layer().layer(counting(frames)), "/", None).await;
    let body = body.into_body();
    assert_eq!(body.size_hint().exact(), None);
    let body = body.collect().await.unwrap();
    assert_eq!(body.trailers(), Some(&trailers()));
    assert_eq!(body.to_bytes(), "onetwo");

    let broken = || {
        let frames = [
            Ok(Frame::data(Bytes::from_static(b"one"))),
            Err("broken".to_owned()),
        ];
        StreamBody::new(stream::iter(frames))
    };
    let body = get(&layer().layer(counting(broken)), "/", None).await;
    let mut body = body.into_body();
    let data = body.frame().await.unwrap().unwrap().into_data();
    assert_eq!(data.unwrap(), "one");
    assert_eq!(body.frame().await.unwrap().unwrap_err(), "broken");

    /// A body that knows only bounds of its size.
    struct Vague;
    impl Body for Vague {
        type Data = Bytes;
        type Error = Infallible;
        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(None)
        }
        fn size_hint(&self) -> SizeHint {
            let mut hint = SizeHint::new();
            hint.set_lower(2);
            hint.set_upper(5);
            hint
        }
    }
    let hint = get(&layer().layer(counting(|| Vague)), "/", None).await;
    let hint = hint.into_body().size_hint();
    assert_eq!((hint.lower(), hint.upper()), (2, Some(5)));
}

#[tokio::test]
async fn nested_layers_wrap_the_body_twice() {
    let mut config = SessionConfig::default();
    config.cookie.name = "__Host-other".to_owned();
    let other = SessionLayer::try_new(MemoryStore::new(), config).unwrap();
    let full = || Full::new(Bytes::from_static(b"full"));
    for inner in [other, layer()] {
        let service = layer().layer(inner.layer(counting(full)));
        let first: Response<ResponseBody<ResponseBody<_>>> = get(&service, "/", None).await;
        let retired = cookie(&first).unwrap();
        assert_eq!(read(first).await, "full");
        let second = get(&service, "/cycle", Some(&retired)).await;
        assert_eq!(second.headers()["n"], "2");
        let refused = get(&service, "/", Some(&retired)).await;
        assert_eq!(refused.status(), StatusCode::CONFLICT);
        assert!(!read(refused).await.is_empty());
    }
}

/// A gRPC service with one method, which increments a counter of the session by the given amount and fails above 100.
#[derive(Clone)]
struct Counter;

impl NamedService for Counter {
    const NAME: &'static str = "test.Counter";
}

impl Service<Request<tonic::body::Body>> for Counter {
    type Response = Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move {
            let count = tower::service_fn(|by: tonic::Request<Vec<u8>>| async move {
                let session = Session::from_extensions(by.extensions()).await.unwrap();
                let by = String::from_utf8(by.into_inner()).unwrap();
                let n = session.increment("n", by.parse().unwrap()).unwrap();
                match n > 100 {
                    true => Err(Status::out_of_range("more than 100")),
                    false => Ok(tonic::Response::new(n.to_string().into_bytes())),
                }
            });
            Ok(tonic::server::Grpc::new(Raw).unary(count, request).await)
        })
    }
}

/// A codec whose messages are bytes.
#[derive(Clone)]
struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, message: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        let length = buffer.remaining();
        Ok(Some(buffer.copy_to_bytes(length).to_vec()))
    }
}

/// Calls the method as a gRPC client. Returns the counter and the cookie of the response.
async fn call<S, B>(
    service: &S,
    by: i64,
    cookie: Option<&str>,
) -> Result<(String, Option<String>), Status>
where
    S: Service<Request<tonic::body::Body>, Response = Response<B>, Error = Infallible> + Clone,
    B: Body<Data = Bytes, Error: Into<tower::BoxError>> + Send + 'static,
{
    let mut client = tonic::client::Grpc::new(service.clone());
    let mut request = tonic::Request::new(by.to_string().into_bytes());
    if let Some(cookie) = cookie {
        request
            .metadata_mut()
            .insert("cookie", cookie.parse().unwrap());
    }
    let method = "/test.Counter/Count".parse().unwrap();
    client.ready().await.unwrap();
    let response = client.unary(request, method, Raw).await?;
    let cookie = response.metadata().get("set-cookie");
    let cookie = cookie.map(|it| it.to_str().unwrap().split(';').next().unwrap().to_owned());
    Ok((String::from_utf8(response.into_inner()).unwrap(), cookie))
}

#[tokio::test]
async fn calls_of_a_tonic_service_have_a_session() {
    async fn counts<S, B>(service: S)
    where
        S: Service<Request<tonic::body::Body>, Response = Response<B>, Error = Infallible> + Clone,
        B: Body<Data = Bytes, Error: Into<tower::BoxError>> + Send + 'static,
    {
        let (n, cookie) = call(&service, 1, None).await.unwrap();
        assert_eq!(n, "1");
        let cookie = cookie.expect("a cookie");
        let again = call(&service, 2, Some(&cookie)).await.unwrap();
        assert_eq!(again, ("3".to_owned(), None));
    }
    counts(layer().layer(Counter)).await;
    counts(Routes::new(Named(layer().layer(Counter))).into_axum_router()).await;
    counts(Routes::new(Counter).into_axum_router().layer(layer())).await;
}

/// The response of a failed method has the HTTP status 200.
#[tokio::test]
async fn changes_of_a_failed_tonic_method_are_committed() {
    let service = layer().layer(Counter);
    let (_, cookie) = call(&service, 1, None).await.unwrap();
    let failed = call(&service, 200, cookie.as_deref()).await;
    assert_eq!(failed.unwrap_err().code(), Code::OutOfRange);
    let taken_back = call(&service, -200, cookie.as_deref()).await;
    assert_eq!(taken_back.unwrap().0, "1");
}

/// Restores the name of the service, which a layer hides from tonic.
#[derive(Clone)]
struct Named<S>(S);

impl<S> NamedService for Named<S> {
    const NAME: &'static str = Counter::NAME;
}

impl<S: Service<Request<tonic::body::Body>>> Service<Request<tonic::body::Body>> for Named<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> S::Future {
        self.0.call(request)
    }
}

/// A response of trailers only, which gRPC clients understand.
#[tokio::test]
async fn the_error_hook_can_answer_a_tonic_client_with_a_status() {
    let layer = layer_without_a_store().with_on_error(|error, _| {
        let status = Status::unavailable(error.to_string());
        status.into_http()
    });
    let cookie = format!("__Host-id={}", "A".repeat(43));
    let refused = call(&layer.layer(Counter), 1, Some(&cookie)).await;
    assert_eq!(refused.unwrap_err().code(), Code::Unavailable);
}
