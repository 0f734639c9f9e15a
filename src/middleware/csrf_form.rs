//! A form with a CSRF token, as an argument of axum handlers.

use std::borrow::Cow;

use axum::Form;
use axum::body::Body;
use axum::extract::rejection::{FormRejection, RawFormRejection};
use axum::extract::{FromRequest, RawForm, Request};
use axum::response::{IntoResponse, Response};
use form_urlencoded::{Serializer, parse};
use http::Method;
use serde::de::DeserializeOwned;

use crate::error::session::SessionError;
use crate::session::Session;

/// The field of a form that has the token.
const FIELD: &str = "_csrf";

/// A form whose token was checked: `axum::Form` for handlers of `POST`, which do not run unless the field `_csrf` holds a
/// [token](crate::Session::csrf_token) of the session.
///
/// [`CsrfLayer`](crate::CsrfLayer) needs no token from today's browsers. Use this extractor for sign-in forms, for forms where a second
/// check matters, and for browsers that send neither `Sec-Fetch-Site` nor `Origin`.
///
/// ```
/// # use axum::response::{Html, Redirect};
/// # use sessile::{CsrfForm, Session, SessionError};
/// async fn page(session: Session) -> Result<Html<String>, SessionError> {
///     let token = session.csrf_token()?; // base64url, which needs no escaping
///     Ok(Html(format!(
///         r#"<form method="post"><input type="hidden" name="_csrf" value="{token}"><input name="text"></form>"#
///     )))
/// }
///
/// #[derive(serde::Deserialize)]
/// struct Note {
///     text: String,
/// }
///
/// async fn note(session: Session, CsrfForm(note): CsrfForm<Note>) -> Result<Redirect, SessionError> {
///     session.push("notes", note.text)?;
///     Ok(Redirect::to("/"))
/// }
/// ```
///
/// The field is not passed on to `T`. A request whose token is in the address, as that of a form with `method="get"`, has none: addresses
/// get into logs and to other sites.
///
/// The body may be as long as axum's `DefaultBodyLimit` says, 2 MB by default. The token is checked before `T` is read.
#[derive(Clone, Copy, Debug)]
pub struct CsrfForm<T>(pub T);

/// Why a form was rejected.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum CsrfFormRejection {
    /// The session could not be loaded, or the token is missing or wrong.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The body could not be read, or is not a form.
    #[error(transparent)]
    Body(#[from] RawFormRejection),
    /// The form does not fit the type.
    #[error(transparent)]
    Form(#[from] FormRejection),
}

impl IntoResponse for CsrfFormRejection {
    fn into_response(self) -> Response {
        match self {
            Self::Session(error) => error.into_response(),
            Self::Body(rejection) => rejection.into_response(),
            Self::Form(rejection) => rejection.into_response(),
        }
    }
}

/// Rejects with [`SessionError::Csrf`], 403, if the token is missing or wrong, and otherwise as `Session` and axum's `Form` do.
impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for CsrfForm<T> {
    type Rejection = CsrfFormRejection;

    async fn from_request(request: Request, state: &S) -> Result<Self, Self::Rejection> {
        let (parts, body) = request.into_parts();
        let session = Session::from_parts(&parts).await?;
        let head = parts.clone();
        let bytes = match parts.method {
            // Axum reads the form of these from the address.
            Method::GET | Method::HEAD => Default::default(),
            _ => {
                let request = Request::from_parts(parts, body);
                RawForm::from_request(request, state).await?.0
            }
        };
        let (token, rest) = split(&bytes);
        session.verify_csrf(&token)?;
        let request = Request::from_parts(head, Body::from(rest));
        let Form(form) = Form::from_request(request, state).await?;
        Ok(Self(form))
    }
}

/// The token of a form, or an empty text, and the other fields.
fn split(form: &[u8]) -> (String, String) {
    let is_token = |(name, _): &(Cow<'_, str>, Cow<'_, str>)| name == FIELD;
    let token = parse(form).find(is_token);
    let token = token.map(|(_, value)| value.into_owned());
    let mut rest = Serializer::new(String::new());
    rest.extend_pairs(parse(form).filter(|field| !is_token(field)));
    (token.unwrap_or_default(), rest.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_form_is_split_into_its_token_and_the_other_fields() {
        for (form, token, rest) in [
            ("", "", ""),
            ("a=1&_csrf=x&b=%26+c", "x", "a=1&b=%26+c"),
            ("_csrf=x&_csrf=y", "x", ""),
            ("%5Fcsrf=x", "x", ""),
            ("_csrf", "", ""),
            ("_CSRF=x&a", "", "_CSRF=x&a="),
            ("a=_csrf%3Dx", "", "a=_csrf%3Dx"),
        ] {
            assert_eq!(
                split(form.as_bytes()),
                (token.to_owned(), rest.to_owned()),
                "{form}"
            );
        }
    }
}
