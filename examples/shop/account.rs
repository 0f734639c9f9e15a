//! The account of a user: their devices, and a new password.

use std::fmt::Write as _;
use std::time::SystemTime;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{Html, IntoResponse, Redirect, Response};
use serde::Deserialize;
use sessile::{CsrfForm, Handle, Principal, Session, SessionError, SessionInfo, Sessions};

use crate::page::{Failure, bare, escape, form, page};
use crate::users::Users;

const SHORTEST_PASSWORD: usize = 8;

pub async fn show(
    session: Session,
    sessions: Sessions,
    user: Principal,
) -> Result<Html<String>, SessionError> {
    let list = sessions.of(&user).await?;
    let mut devices = String::new();
    for it in &list {
        devices.push_str(&device(&session, it)?);
    }
    let end_others = match list.len() {
        0 | 1 => String::new(),
        _ => {
            let button = "<button>Sign out all other devices</button>";
            form(&session, "/account/end-others", button)?
        }
    };
    // The name of the user is there for password managers.
    let fields = format!(
        "<div class=stack><input name=user value=\"{user}\" autocomplete=username hidden>
        <label>Old password <input name=old type=password required autocomplete=current-password></label>
        <label>New password <input name=new type=password required minlength={SHORTEST_PASSWORD}
            autocomplete=new-password></label>
        <button>Change password</button></div>",
        user = escape(&user),
    );
    let body = format!(
        "<h2 class=section>Your devices</h2><ul class=devices>{devices}</ul>{end_others}
         <h2 class=section>Your password</h2>{form}
         <p class=facts>A new password signs out all other devices.</p>",
        form = form(&session, "/account/password", &fields)?,
    );
    page(&session, "Your account", &body).await
}

fn device(session: &Session, it: &SessionInfo) -> Result<String, SessionError> {
    let (here, end) = match it.is_current() {
        true => ("<span class=here>this one</span>", String::new()),
        false => {
            let handle = it.handle();
            let button =
                format!("<button class=quiet name=device value={handle}>Sign out</button>");
            ("", form(session, "/account/end", &button)?)
        }
    };
    let mut device = String::new();
    let _ = write!(
        device,
        "<li><div><p><strong>{name}</strong>{here}</p>
         <p class=facts>signed in {signed_in} · last seen {seen} · network {network}</p></div>{end}</li>",
        name = escape(it.label().unwrap_or("Unknown browser")),
        signed_in = ago(it.authenticated_at()),
        seen = ago(it.last_accessed()),
        network = it.network().unwrap_or("unknown"),
    );
    Ok(device)
}

fn ago(time: SystemTime) -> String {
    let passed = SystemTime::now().duration_since(time).unwrap_or_default();
    let minutes = passed.as_secs() / 60;
    match minutes {
        0 => "just now".to_owned(),
        1..60 => format!("{minutes} min ago"),
        60..1440 => format!("{} h ago", minutes / 60),
        _ => format!("{} d ago", minutes / 1440),
    }
}

#[derive(Deserialize)]
pub struct Device {
    device: String,
}

pub async fn end(
    session: Session,
    sessions: Sessions,
    user: Principal,
    CsrfForm(Device { device }): CsrfForm<Device>,
) -> Result<Redirect, SessionError> {
    // The session of this request ends by signing out, which also removes the cookie.
    let device: Option<Handle> = device.parse().ok();
    let device = device.filter(|device| session.handle() != Some(*device));
    let ended = match device {
        Some(device) => sessions.destroy(&user, device).await?,
        None => false,
    };
    match ended {
        true => session.flash_success("The device is signed out.")?,
        false => session.flash_warning("That device is not signed in any more.")?,
    }
    Ok(Redirect::to("/account"))
}

pub async fn end_others(
    session: Session,
    sessions: Sessions,
    user: Principal,
    _: CsrfForm<()>,
) -> Result<Redirect, SessionError> {
    if let Some(here) = session.handle() {
        let ended = sessions.destroy_others(&user, here).await?;
        session.flash_success(format!("Devices that were signed out: {ended}."))?;
    }
    Ok(Redirect::to("/account"))
}

#[derive(Deserialize)]
pub struct Passwords {
    old: String,
    new: String,
}

pub async fn change_password(
    session: Session,
    sessions: Sessions,
    user: Principal,
    State(users): State<Users>,
    CsrfForm(form): CsrfForm<Passwords>,
) -> Result<Response, Failure> {
    let account = Redirect::to("/account").into_response();
    let Some(here) = session.handle() else {
        return Ok(account);
    };
    if form.new.chars().count() < SHORTEST_PASSWORD {
        session.flash_error(format!(
            "The new password needs {SHORTEST_PASSWORD} characters or more."
        ))?;
        return Ok(account);
    }
    // A task of its own: a client that goes away must not leave the sessions of the old password behind.
    let change = tokio::spawn(async move {
        if !users.change(&user, &form.old, &form.new).await? {
            return Ok(None);
        }
        // First the new password, then the sessions: a sign-in that has checked the old password in between is refused.
        Ok::<_, Failure>(Some(sessions.destroy_others(&user, here).await))
    });
    match change.await.expect("the task does not panic")? {
        None => session.flash_error("The old password is wrong.")?,
        Some(Ok(ended)) => {
            // Whoever has got hold of this session's token loses it, too.
            session.cycle_id()?;
            session.flash_success(format!(
                "Your password is changed. Devices that were signed out: {ended}."
            ))?;
        }
        Some(Err(error)) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "sessions of the old password may be left"
            );
            let body = "<p>Your password is changed, but other devices may still be signed in.
                <a href=/account>Sign them out.</a></p>";
            let page = Html(bare("One moment, please", body));
            return Ok((StatusCode::SERVICE_UNAVAILABLE, page).into_response());
        }
    }
    Ok(account)
}
