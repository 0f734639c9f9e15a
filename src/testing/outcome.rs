//! What a closure on a session returns.

use crate::error::session::SessionError;

/// What a closure on a session may return, in [`TestClient::with_session`](crate::testing::TestClient::with_session) and
/// [`TestRequest::meanwhile`](crate::testing::TestRequest::meanwhile): nothing, or a result of the session's calls, whose error fails the
/// test.
pub trait Outcome: sealed::Sealed {
    /// What is left if there is no error.
    type Value;

    #[doc(hidden)]
    fn into_result(self) -> Result<Self::Value, SessionError>;
}

impl Outcome for () {
    type Value = ();

    fn into_result(self) -> Result<(), SessionError> {
        Ok(())
    }
}

impl<T> Outcome for Result<T, SessionError> {
    type Value = T;

    fn into_result(self) -> Self {
        self
    }
}

mod sealed {
    use crate::error::session::SessionError;

    #[expect(
        unnameable_types,
        reason = "sealed: only the types here may be outcomes"
    )]
    pub trait Sealed {}

    impl Sealed for () {}

    impl<T> Sealed for Result<T, SessionError> {}
}
