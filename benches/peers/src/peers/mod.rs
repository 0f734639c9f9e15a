//! The application on each peer, set up as the peer's documentation says.

mod actix_session;
mod axum_plain;
mod axum_session;
mod hand;
mod ruts;
mod sessile;
mod tower_sessions;

use std::future::Future;
use std::net::TcpListener;

use axum::Router;
use clap::ValueEnum;

use crate::Result;
use crate::serve::Serve;

/// What serves the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum)]
pub enum Peer {
    /// sessile with its default settings.
    Sessile,
    /// sessile that loads a session when a handler asks for it.
    SessileOnExtract,
    /// axum and redis-rs: `GET`, and `SETEX` for a change.
    Hand,
    /// The same with `GETEX`, which keeps a session alive that is read.
    HandSliding,
    /// axum without sessions.
    Axum,
    /// tower-sessions with its default settings.
    TowerSessions,
    /// tower-sessions as it keeps a session alive that is read.
    TowerSessionsAlwaysSave,
    /// axum_session with its default settings: from the memory of the process.
    AxumSession,
    /// axum_session with a memory lifetime of zero.
    AxumSessionNoMemory,
    /// actix-session with its default settings.
    ActixSession,
    /// actix-session that extends the lifetime with every request.
    ActixSessionEveryRequest,
    /// ruts, a Redis hash for each session.
    Ruts,
}

impl Peer {
    /// Its name on the command line and in the results.
    pub fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Whether it has sessions at all.
    pub fn has_sessions(self) -> bool {
        self != Self::Axum
    }

    /// Whether a read keeps a session alive.
    pub fn slides(self) -> &'static str {
        match self {
            Self::Sessile | Self::HandSliding => "yes",
            Self::SessileOnExtract => "yes, when used",
            Self::TowerSessionsAlwaysSave => "yes, by a rewrite",
            Self::ActixSessionEveryRequest => "yes, by `EXPIRE`",
            Self::AxumSession | Self::AxumSessionNoMemory => "yes, every 10 s",
            Self::Hand | Self::TowerSessions | Self::ActixSession | Self::Ruts => "no",
            Self::Axum => "–",
        }
    }

    /// The packages that it consists of.
    pub fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Sessile | Self::SessileOnExtract => &["sessile"],
            Self::Hand | Self::HandSliding => &["axum", "redis"],
            Self::Axum => &["axum"],
            Self::TowerSessions | Self::TowerSessionsAlwaysSave => {
                &["tower-sessions", "tower-sessions-redis-store", "fred"]
            }
            Self::AxumSession | Self::AxumSessionNoMemory => {
                &["axum_session", "axum_session_redispool", "redis_pool"]
            }
            Self::ActixSession | Self::ActixSessionEveryRequest => &["actix-session", "actix-web"],
            Self::Ruts => &["ruts", "fred"],
        }
    }

    /// Serves until the process ends.
    pub fn run(self, listener: TcpListener, serve: &Serve) -> Result<()> {
        use ::actix_session::config::TtlExtensionPolicy;
        use ::sessile::Load;
        match self {
            Self::Sessile => block_on(serve, sessile::serve(listener, serve, Load::Inbound)),
            Self::SessileOnExtract => {
                block_on(serve, sessile::serve(listener, serve, Load::OnExtract))
            }
            Self::Hand => block_on(serve, hand::serve(listener, serve, false)),
            Self::HandSliding => block_on(serve, hand::serve(listener, serve, true)),
            Self::Axum => block_on(serve, axum_plain::serve(listener)),
            Self::TowerSessions => block_on(serve, tower_sessions::serve(listener, serve, false)),
            Self::TowerSessionsAlwaysSave => {
                block_on(serve, tower_sessions::serve(listener, serve, true))
            }
            Self::AxumSession => block_on(serve, axum_session::serve(listener, serve, true)),
            Self::AxumSessionNoMemory => {
                block_on(serve, axum_session::serve(listener, serve, false))
            }
            Self::ActixSession => {
                actix_session::run(listener, serve, TtlExtensionPolicy::OnStateChanges)
            }
            Self::ActixSessionEveryRequest => {
                actix_session::run(listener, serve, TtlExtensionPolicy::OnEveryRequest)
            }
            Self::Ruts => block_on(serve, ruts::serve(listener, serve)),
        }
    }
}

fn block_on(serve: &Serve, server: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(serve.workers)
        .enable_all()
        .build()?;
    runtime.block_on(server)
}

async fn listen(listener: TcpListener, app: Router) -> Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    Ok(axum::serve(listener, app).await?)
}
