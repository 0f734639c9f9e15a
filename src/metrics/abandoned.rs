//! What nobody waits for any more.

/// Calls a function if it is dropped before [`disarm`](Self::disarm): together with the future that it is a part of, since a
/// deadline has passed or a client has left. What took too long would be missing in the durations otherwise.
#[must_use]
pub(crate) struct IfAbandoned<F: FnMut()> {
    call: Option<F>,
}

impl<F: FnMut()> IfAbandoned<F> {
    pub(crate) fn new(call: F) -> Self {
        Self { call: Some(call) }
    }

    /// The work is over.
    pub(crate) fn disarm(mut self) {
        self.call = None;
    }
}

impl<F: FnMut()> Drop for IfAbandoned<F> {
    fn drop(&mut self) {
        if let Some(call) = &mut self.call {
            call();
        }
    }
}
