//! actix-session on actix-web, set up as its documentation does; `OnStateChanges` is its default.

use std::net::TcpListener;

use actix_session::config::{PersistentSession, TtlExtensionPolicy};
use actix_session::storage::RedisSessionStore;
use actix_session::{Session, SessionMiddleware};
use actix_web::cookie::{Key, time};
use actix_web::error::ErrorInternalServerError;
use actix_web::web::{Data, Path, get};
use actix_web::{App, HttpServer};

use crate::Result;
use crate::app::{COUNTER, Contents, LIFETIME, OK, READ_KEY, marks, values};
use crate::serve::Serve;

type Answer = std::result::Result<String, actix_web::Error>;

pub(super) fn run(listener: TcpListener, serve: &Serve, policy: TtlExtensionPolicy) -> Result<()> {
    let lifetime = time::Duration::try_from(LIFETIME)?;
    actix_web::rt::System::new().block_on(async {
        let store = RedisSessionStore::new(serve.redis.as_str());
        let store = store.await.map_err(|error| error.to_string())?;
        // Every process has the same key, so that each accepts the cookies of the others.
        let key = Key::derive_from(&[7; 32]);
        let contents = serve.contents();
        let server = HttpServer::new(move || {
            let lifecycle = PersistentSession::default()
                .session_ttl(lifetime)
                .session_ttl_extension_policy(policy.clone());
            let sessions = SessionMiddleware::builder(store.clone(), key.clone())
                .session_lifecycle(lifecycle)
                .build();
            App::new()
                .app_data(Data::new(contents))
                .wrap(sessions)
                .route("/none", get().to(async || OK))
                .route("/read", get().to(read))
                .route("/change", get().to(change))
                .route("/count", get().to(count))
                .route("/mark/{name}", get().to(mark))
                .route("/marks", get().to(count_marks))
                .route("/seed", get().to(seed))
        });
        let server = server.workers(serve.workers).listen(listener)?;
        Ok(server.run().await?)
    })
}

fn missing() -> actix_web::Error {
    ErrorInternalServerError("there is no such session")
}

async fn read(session: Session) -> Answer {
    session.get(READ_KEY)?.ok_or_else(missing)
}

async fn change(session: Session) -> Answer {
    let count = session.get::<u64>(COUNTER)?.ok_or_else(missing)? + 1;
    session.insert(COUNTER, count)?;
    Ok(count.to_string())
}

async fn count(session: Session) -> Answer {
    let count: u64 = session.get(COUNTER)?.ok_or_else(missing)?;
    Ok(count.to_string())
}

async fn mark(session: Session, name: Path<String>) -> Answer {
    session.insert(name.into_inner(), 1)?;
    Ok(OK.to_owned())
}

async fn count_marks(session: Session) -> Answer {
    let entries = session.entries();
    let there = marks().filter(|name| entries.contains_key(name));
    Ok(there.count().to_string())
}

async fn seed(session: Session, contents: Data<Contents>) -> Answer {
    for (name, value) in values(**contents) {
        session.insert(name, value)?;
    }
    session.insert(COUNTER, 0)?;
    Ok(OK.to_owned())
}
