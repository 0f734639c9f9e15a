//! How do I build a shop with sessions: a cart, sign-in, "remember me", notices?
//!
//! Run `cargo run --example shop` and open the address that it prints; any name signs in with the password `tulip`. The shop works
//! without JavaScript. It stores sessions in memory, or in Redis if `REDIS_URL` is set. Two instances on two ports then share
//! them:
//!
//! ```sh
//! REDIS_URL=redis://127.0.0.1/ PORT=3000 cargo run --example shop
//! REDIS_URL=redis://127.0.0.1/ PORT=3001 cargo run --example shop
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::Form;
use axum::response::{Html, Redirect};
use axum::routing::{get, post};
use axum::{Router, http::StatusCode};
use serde::Deserialize;
use sessile::{Key, MemoryStore, RedisStore, Session, SessionError, SessionLayer};

/// Articles by number, and how many of each.
const CART: Key<BTreeMap<usize, u32>> = Key::new("cart");
const ORDERS: Key<i64> = Key::new("orders");
const VISITS: Key<i64> = Key::new("visits");

const CATALOGUE: [(&str, &str, u32); 6] = [
    ("Tulip bulbs", "Ten of them, red", 690),
    ("Watering can", "Zinc, five litres", 2450),
    ("Garden twine", "Jute, fifty metres", 320),
    ("Seed tray", "For forty seedlings", 899),
    ("Secateurs", "For the left hand too", 3100),
    ("Bee hotel", "Oak, fully booked in May", 1990),
];

const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);

async fn home(session: Session) -> Result<Html<String>, SessionError> {
    session.increment(VISITS, 1)?;
    let mut articles = String::new();
    for (number, (name, text, cents)) in CATALOGUE.iter().enumerate() {
        let _ = write!(
            articles,
            "<article><h2>{name}</h2><p>{text}</p><p class=price>{price}</p>
             <form method=post action=/cart/add><button name=article value={number}>Add to cart</button></form></article>",
            price = euros(*cents),
        );
    }
    page(
        &session,
        "Garden shop",
        &format!("<section class=grid>{articles}</section>"),
    )
    .await
}

#[derive(Deserialize)]
struct Article {
    article: usize,
}

async fn add(
    session: Session,
    Form(Article { article }): Form<Article>,
) -> Result<Redirect, SessionError> {
    let Some((name, ..)) = CATALOGUE.get(article) else {
        session.flash_error("We do not have that article.")?;
        return Ok(Redirect::to("/"));
    };
    // sessile replays the closure if another tab or instance has changed the cart meanwhile, so that no article is lost.
    session.update(CART, move |cart| *cart.entry(article).or_default() += 1)?;
    session.flash_success(format!("{name} is in your cart."))?;
    Ok(Redirect::to("/"))
}

async fn remove(
    session: Session,
    Form(Article { article }): Form<Article>,
) -> Result<Redirect, SessionError> {
    session.update(CART, move |cart| {
        cart.remove(&article);
    })?;
    Ok(Redirect::to("/cart"))
}

async fn cart(session: Session) -> Result<Html<String>, SessionError> {
    let cart = session.get(CART)?.unwrap_or_default();
    let (mut rows, mut total) = (String::new(), 0);
    for (number, count) in &cart {
        let Some((name, _, cents)) = CATALOGUE.get(*number) else {
            continue;
        };
        total += cents * count;
        let _ = write!(
            rows,
            "<tr><td>{count} × {name}</td><td class=price>{price}</td><td>
             <form method=post action=/cart/remove><button class=quiet name=article value={number}>Remove</button></form></td></tr>",
            price = euros(cents * count),
        );
    }
    let body = match cart.is_empty() {
        true => "<p>Your cart is empty. <a href=/>Have a look around.</a></p>".to_owned(),
        false => format!(
            "<table>{rows}<tr class=total><td>Total</td><td class=price>{total}</td><td></td></tr></table>
             <form method=post action=/order><button>Order</button></form>",
            total = euros(total),
        ),
    };
    page(&session, "Your cart", &body).await
}

async fn order(session: Session) -> Result<Redirect, SessionError> {
    if session.principal().is_none() {
        session.flash_info("Please sign in to order; your cart waits for you.")?;
        return Ok(Redirect::to("/sign-in"));
    }
    // The cart becomes an order in one step: a double click orders once, and a failure cannot lose the cart.
    let order = session.transaction(|data| {
        let cart = data.remove(CART)?.unwrap_or_default();
        if cart.is_empty() {
            return Ok(None);
        }
        let number = data.increment(ORDERS, 1)?;
        data.insert(format!("orders/{number}"), cart)?;
        Ok::<_, SessionError>(Some(number))
    });
    match order.await? {
        Some(number) => {
            session.flash_success(format!("Thank you! Your order no. {number} is on its way."))?;
        }
        None => session.flash_warning("There was nothing in your cart.")?,
    }
    Ok(Redirect::to("/"))
}

async fn sign_in_form(session: Session) -> Result<Html<String>, SessionError> {
    let body = "<form method=post action=/sign-in class=stack>
        <label>Name <input name=user required maxlength=40 autocomplete=username></label>
        <label>Password <input name=password type=password required autocomplete=current-password></label>
        <label class=check><input type=checkbox name=remember value=yes> Remember me for 30 days</label>
        <button>Sign in</button></form>
        <p class=facts>Any name will do; the password is <code>tulip</code>.</p>";
    page(&session, "Sign in", body).await
}

#[derive(Deserialize)]
struct Credentials {
    user: String,
    password: String,
    remember: Option<String>,
}

async fn sign_in(
    session: Session,
    Form(form): Form<Credentials>,
) -> Result<Redirect, SessionError> {
    // Stands for a look-up of the user and a check of the password's hash, with a crate such as argon2.
    if form.password != "tulip" || form.user.is_empty() || form.user.len() > 40 {
        session.flash_error("Name or password is wrong.")?;
        return Ok(Redirect::to("/sign-in"));
    }
    // The session gets a new token, so that a token which an attacker planted before the login is invalid. The cart stays.
    session.set_principal(form.user).await?;
    if form.remember.is_some() {
        session.set_idle_timeout(MONTH)?;
        session.set_absolute_timeout(MONTH)?;
        session.set_persistent(true)?;
    }
    session.flash_success("You are signed in.")?;
    Ok(Redirect::to("/"))
}

async fn sign_out(session: Session) -> Result<Redirect, SessionError> {
    session.destroy();
    // This message goes into a new, anonymous session.
    session.flash_info("You are signed out.")?;
    Ok(Redirect::to("/"))
}

/// Builds a page with the parts that all pages share: notices, the cart's size, the user, and facts about the session.
async fn page(session: &Session, title: &str, body: &str) -> Result<Html<String>, SessionError> {
    let mut notices = String::new();
    for flash in session.take_flashes().await? {
        let _ = write!(
            notices,
            "<p class=\"notice {}\">{}</p>",
            flash.level,
            escape(&flash.text)
        );
    }
    let count: u32 = session.get(CART)?.unwrap_or_default().values().sum();
    let user = match session.principal() {
        Some(user) => format!(
            "<span>{}</span><form method=post action=/sign-out><button class=quiet>Sign out</button></form>",
            escape(&user)
        ),
        None => "<a href=/sign-in>Sign in</a>".to_owned(),
    };
    let ends = session
        .expires_at()
        .duration_since(std::time::SystemTime::now())
        .unwrap_or_default();
    let facts = format!(
        "visit {} · session {} · ends in {} minutes if unused",
        session.get(VISITS)?.unwrap_or_default(),
        session
            .handle()
            .map_or_else(|| "not stored yet".to_owned(), |handle| handle.to_string()),
        ends.as_secs() / 60,
    );
    Ok(Html(format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\">
         <title>{title}</title><style>{STYLE}</style>
         <header><a class=brand href=/>Garden shop</a><nav><a href=/cart>Cart ({count})</a>{user}</nav></header>
         <main>{notices}<h1>{title}</h1>{body}</main><footer class=facts>{facts}</footer></html>"
    )))
}

fn euros(cents: u32) -> String {
    format!("{}.{:02} €", cents / 100, cents % 100)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

const STYLE: &str = "
    :root { --ink: #22302a; --leaf: #2f6f4e; --paper: #fbfaf6; --line: #dedbd0; }
    * { box-sizing: border-box; }
    body { margin: 0; font: 17px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); }
    header, main, footer { max-width: 62rem; margin: 0 auto; padding: 1rem; }
    header { display: flex; flex-wrap: wrap; gap: .5rem 1rem; justify-content: space-between; align-items: center;
        border-bottom: 1px solid var(--line); }
    nav { display: flex; gap: 1rem; align-items: center; }
    a { color: var(--leaf); } .brand { font-weight: 700; text-decoration: none; }
    h1 { font-size: 1.6rem; margin: .5rem 0 1rem; } h2 { font-size: 1.1rem; margin: 0; }
    .grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); }
    article { background: #fff; border: 1px solid var(--line); border-radius: .5rem; padding: 1rem; }
    article p { margin: .25rem 0; } .price { font-variant-numeric: tabular-nums; white-space: nowrap; text-align: right; }
    article .price { text-align: left; font-weight: 600; }
    button { font: inherit; color: #fff; background: var(--leaf); border: 0; border-radius: .4rem; padding: .45rem .9rem; cursor: pointer; }
    button.quiet { color: var(--leaf); background: none; border: 1px solid var(--line); padding: .2rem .6rem; }
    form { margin: 0; } .stack { display: grid; gap: .8rem; max-width: 22rem; }
    label { display: grid; gap: .2rem; } label.check { display: flex; gap: .5rem; align-items: center; }
    input { font: inherit; padding: .4rem; border: 1px solid var(--line); border-radius: .4rem; }
    table { width: 100%; border-collapse: collapse; margin-bottom: 1rem; }
    td { padding: .5rem .25rem; border-bottom: 1px solid var(--line); } .total td { font-weight: 700; }
    td:last-child { text-align: right; }
    .notice { margin: 0 0 .5rem; padding: .6rem .8rem; border-radius: .4rem; background: #e6eef7; }
    .notice.success { background: #e2f2e7; } .notice.warning { background: #fdf1d6; } .notice.error { background: #fbe3e0; }
    .facts { font-size: .85rem; color: #66706a; overflow-wrap: anywhere; }";

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_env_filter("info,sessile=debug")
        .init();
    let sessions = match std::env::var("REDIS_URL") {
        Ok(url) => SessionLayer::new(RedisStore::from_url(url).await?),
        Err(_) => SessionLayer::new(MemoryStore::new()),
    };
    let app = Router::new()
        .route("/", get(home))
        .route("/cart", get(cart))
        .route("/cart/add", post(add))
        .route("/cart/remove", post(remove))
        .route("/order", post(order))
        .route("/sign-in", get(sign_in_form).post(sign_in))
        .route("/sign-out", post(sign_out))
        .fallback(|| async {
            (
                StatusCode::NOT_FOUND,
                Html("<a href=/>Nothing here; back to the shop.</a>"),
            )
        })
        // This allows plain HTTP for a trial; remove the call in production.
        .layer(sessions.insecure_for_localhost());

    let port = std::env::var("PORT").unwrap_or_else(|_| "3000".to_owned());
    let listener = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await?;
    println!("open http://{}", listener.local_addr()?);
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    Ok(axum::serve(listener, app).await?)
}
