//! Sign-in and sign-out.

use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::{Html, Redirect};
use form_urlencoded::byte_serialize;
use serde::Deserialize;
use sessile::{CsrfForm, LocalPath, Session, SessionError, Sessions};

use crate::device;
use crate::page::{Failure, escape, form, page};
use crate::users::Users;

const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The page that the visitor wanted, which `RequirePrincipal` adds to the address.
#[derive(Deserialize)]
pub struct Wanted {
    #[serde(default)]
    next: LocalPath,
}

pub async fn show(
    session: Session,
    Query(Wanted { next }): Query<Wanted>,
) -> Result<Html<String>, SessionError> {
    let fields = format!(
        "<div class=stack><input type=hidden name=next value=\"{next}\">
        <label>Name <input name=user required maxlength=40 autocomplete=username></label>
        <label>Password <input name=password type=password required autocomplete=current-password></label>
        <label class=check><input type=checkbox name=remember value=yes> Remember me for 30 days</label>
        <button>Sign in</button></div>",
        next = escape(&next.to_string()),
    );
    let form = form(&session, "/sign-in", &fields)?;
    let body = format!(
        "{form}<p class=facts>Any name will do; the password is <code>tulip</code>, until you change it.</p>"
    );
    page(&session, "Sign in", &body).await
}

#[derive(Deserialize)]
pub struct SignIn {
    user: String,
    password: String,
    remember: Option<String>,
    #[serde(default)]
    next: LocalPath,
}

pub async fn sign_in(
    session: Session,
    sessions: Sessions,
    State(users): State<Users>,
    headers: HeaderMap,
    CsrfForm(form): CsrfForm<SignIn>,
) -> Result<Redirect, Failure> {
    // Before the password is checked: if it is changed in between, `set_principal` is refused with 409.
    let sign_in = sessions.sign_in(&form.user).await?;
    if !users.is_right(&form.user, &form.password).await? {
        session.flash_error("Name or password is wrong.")?;
        let next: String = byte_serialize(form.next.or("").as_bytes()).collect();
        return Ok(Redirect::to(&format!("/sign-in?next={next}")));
    }
    // The session gets a new token, so that a token which an attacker planted before the login is invalid. The cart stays.
    session.set_principal(sign_in).await?;
    session.set_label(device::name(&headers))?;
    if form.remember.is_some() {
        session.set_idle_timeout(MONTH)?;
        session.set_absolute_timeout(MONTH)?;
        session.set_persistent(true)?;
    }
    session.flash_success("You are signed in.")?;
    Ok(Redirect::to(form.next.or("/")))
}

pub async fn sign_out(session: Session, _: CsrfForm<()>) -> Result<Redirect, SessionError> {
    session.destroy();
    // This message goes into a new, anonymous session.
    session.flash_info("You are signed out.")?;
    Ok(Redirect::to("/"))
}
