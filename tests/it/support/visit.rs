//! A visitor whose handlers are closures in the test. Each runs in a request of its own, all in one session.

use std::future::Future;

use axum::Router;
use axum::response::IntoResponse;
use axum::routing::get;
use sessile::{MemoryStore, Session, SessionLayer};

use super::Browser;
use super::browser::Page;

/// A browser with its layer. A clone is another tab of the same browser.
#[derive(Clone)]
pub struct Visit {
    pub layer: SessionLayer,
    pub browser: Browser,
}

impl Visit {
    pub fn in_memory() -> Self {
        Self::with(SessionLayer::new(MemoryStore::new()))
    }

    pub fn with(layer: SessionLayer) -> Self {
        Self {
            layer,
            browser: Browser::default(),
        }
    }

    /// Runs a handler in a request, and returns the response.
    pub async fn page<F, Fut, R>(&mut self, handler: F) -> Page
    where
        F: FnOnce(Session) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = R> + Send,
        R: IntoResponse + 'static,
    {
        let handler = |session: Session| async move { handler(session).await };
        let app = Router::new()
            .route("/", get(handler))
            .layer(self.layer.clone());
        self.browser.get(&app, "/").await
    }

    /// Runs a handler in a request, whose status must be 200.
    pub async fn request<F, Fut>(&mut self, handler: F)
    where
        F: FnOnce(Session) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send,
    {
        self.page(handler).await.ok();
    }

    /// Returns the session of a request after its response, as a WebSocket or a spawned task keeps it.
    pub async fn keep(&mut self) -> Session {
        let (send, receive) = tokio::sync::oneshot::channel();
        let send = std::sync::Arc::new(std::sync::Mutex::new(Some(send)));
        self.request(move |session| async move {
            let send = send.lock().unwrap().take().unwrap();
            send.send(session).unwrap();
        })
        .await;
        receive.await.unwrap()
    }
}
