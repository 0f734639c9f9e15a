//! The catalogue, the cart and the order.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use axum::response::{Html, Redirect};
use serde::Deserialize;
use sessile::{CsrfForm, Key, Session, SessionError};

use crate::page::{form, page};

/// Articles by number, and how many of each.
pub const CART: Key<BTreeMap<usize, u32>> = Key::new("cart");
pub const VISITS: Key<i64> = Key::new("visits");
const ORDERS: Key<i64> = Key::new("orders");

const CATALOGUE: [(&str, &str, u32); 6] = [
    ("Tulip bulbs", "Ten of them, red", 690),
    ("Watering can", "Zinc, five litres", 2450),
    ("Garden twine", "Jute, fifty metres", 320),
    ("Seed tray", "For forty seedlings", 899),
    ("Secateurs", "For the left hand too", 3100),
    ("Bee hotel", "Oak, fully booked in May", 1990),
];

pub async fn home(session: Session) -> Result<Html<String>, SessionError> {
    session.increment(VISITS, 1)?;
    let mut articles = String::new();
    for (number, (name, text, cents)) in CATALOGUE.iter().enumerate() {
        let button = format!("<button name=article value={number}>Add to cart</button>");
        let _ = write!(
            articles,
            "<article><h2>{name}</h2><p>{text}</p><p class=price>{price}</p>{form}</article>",
            price = euros(*cents),
            form = form(&session, "/cart/add", &button)?,
        );
    }
    let body = format!("<section class=grid>{articles}</section>");
    page(&session, "Garden shop", &body).await
}

#[derive(Deserialize)]
pub struct Article {
    article: usize,
}

pub async fn add(
    session: Session,
    CsrfForm(Article { article }): CsrfForm<Article>,
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

pub async fn remove(
    session: Session,
    CsrfForm(Article { article }): CsrfForm<Article>,
) -> Result<Redirect, SessionError> {
    session.update(CART, move |cart| {
        cart.remove(&article);
    })?;
    Ok(Redirect::to("/cart"))
}

pub async fn cart(session: Session) -> Result<Html<String>, SessionError> {
    let cart = session.get(CART)?.unwrap_or_default();
    let (mut rows, mut total) = (String::new(), 0);
    for (number, count) in &cart {
        let Some((name, _, cents)) = CATALOGUE.get(*number) else {
            continue;
        };
        total += cents * count;
        let button = format!("<button class=quiet name=article value={number}>Remove</button>");
        let _ = write!(
            rows,
            "<tr><td>{count} × {name}</td><td class=price>{price}</td><td>{form}</td></tr>",
            price = euros(cents * count),
            form = form(&session, "/cart/remove", &button)?,
        );
    }
    let body = match cart.is_empty() {
        true => "<p>Your cart is empty. <a href=/>Have a look around.</a></p>".to_owned(),
        false => format!(
            "<table>{rows}<tr class=total><td>Total</td><td class=price>{total}</td><td></td></tr></table>{form}",
            total = euros(total),
            form = form(&session, "/order", "<button>Order</button>")?,
        ),
    };
    page(&session, "Your cart", &body).await
}

pub async fn order(session: Session, _: CsrfForm<()>) -> Result<Redirect, SessionError> {
    if session.principal().is_none() {
        session.flash_info("Please sign in to order; your cart waits for you.")?;
        return Ok(Redirect::to("/sign-in?next=/cart"));
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

fn euros(cents: u32) -> String {
    format!("{}.{:02} €", cents / 100, cents % 100)
}
