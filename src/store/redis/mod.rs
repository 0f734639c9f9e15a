//! Sessions in Redis or Valkey: one string for each session, under `<key_prefix><handle>`. The *handle* is the public half of
//! the token in the cookie and names the session. A *lease*, the right of one request at a time to a session, is a second key,
//! `<key_prefix><handle>:lease`. The *index* of a principal lists their sessions, `<key_prefix>of:{<hash>}`.
//!
//! The way of a store from its settings to its first command, in reading order:
//!
//! 1. `config.rs: RedisConfig` holds the settings, with `tls.rs: TlsConfig`, `sentinel.rs: SentinelConfig` and `credentials.rs:
//!    CredentialsProvider`. `endpoint.rs: RedisConfig::check` validates them and turns the URL into an `Endpoint`: one server,
//!    a cluster or sentinels. `url.rs` splits URLs, and hides user and password (`without_login`).
//! 2. `connect.rs: RedisStore::from_config` connects once (`servers.rs: Servers::connect_once`), then sends every command that
//!    requests will need (`probe.rs: RedisStore::probe`). `advice.rs` turns a failure into advice. `RedisStore::lazy` skips
//!    both.
//! 3. `store.rs` implements `SessionStore`: each operation becomes commands, `request.rs: Request`. `read.rs: load` loads, without the
//!    time to live if `expiry.rs: Expiries` knows it; `cas/mod.rs: Cas::replace` compares and sets; `replicas.rs` writes and waits for replicas; `lease.rs` acquires and
//!    releases. `index/mod.rs: Indexes` lists the sessions of each user. `reply.rs` reads the replies.
//! 4. `servers.rs: Servers::send` sends a request to the one server, or to the node of a cluster that has the key
//!    (`router/mod.rs`).
//! 5. `connections.rs: Connections::send` fails at once while the circuit breaker is open (`breaker.rs: Breaker::admits`),
//!    checks out a connection, sends, waits for `command_timeout` at most, and records the outcome in the breaker. `Prober`
//!    closes the breaker once the server answers. `error.rs: RequestError` describes a failure, and `Retries` decides whether
//!    an idempotent request is sent again.
//! 6. `pool.rs: Pools` keeps two bb8 pools: of connections that requests share, and of connections that one request uses alone
//!    (`exclusive.rs: Exclusive`, for `WATCH` and `WAIT`). `recent.rs: Recent` has the shared ones at hand, so that a request need not
//!    ask bb8. `channel.rs: Channel` is either kind of connection.
//! 7. `manager.rs: Manager` opens connections (`link.rs: Link`) through `connector.rs: Connector`, with the credentials of `login.rs:
//!    Login`, reads the server's time (`clock.rs: Clock`), and asks sentinels for the primary (`sentinel.rs: Sentinels::open`).
//!
//! Each round trip has a span, `span.rs: Peer::span`.
//!
//! Beside the requests: `scan.rs` goes through all sessions, `stats.rs` counts them and checks the store's health, `throttle.rs` limits how often something
//! happens, `address.rs` formats and replaces addresses.

mod address;
mod advice;
mod breaker;
mod cas;
mod channel;
mod clock;
pub(crate) mod config;
mod connect;
mod connections;
mod connector;
pub(crate) mod credentials;
mod endpoint;
mod error;
mod exclusive;
mod expiry;
mod index;
mod lease;
mod link;
mod login;
mod manager;
mod pool;
mod probe;
mod read;
mod recent;
mod replicas;
mod reply;
mod request;
#[cfg(feature = "cluster")]
mod router;
pub(crate) mod scan;
pub(crate) mod sentinel;
mod servers;
mod span;
mod stats;
pub(crate) mod store;
mod throttle;
pub(crate) mod tls;
mod url;
