//! A session that was opened by a former name of its cookie, before its token goes into the cookie of the present name.

use tokio::time::Instant;

use crate::middleware::slot::SessionSlot;
use crate::record::Record;
use crate::record::token_check::TokenCheck;
use crate::store::Freshness;
use crate::store::deadline::within;
use crate::time::deadline::deadline;
use crate::token::Token;

impl SessionSlot {
    /// Whether the token still opens the session, by one more read of the store.
    ///
    /// A response that only moves a token from one name to another must not replace the token of a login that was answered
    /// meanwhile: that would log the visitor out. If the store fails, a later response moves it.
    pub(crate) async fn is_still_valid(&self, token: &Token) -> bool {
        let backend = &self.context.backend;
        let spent = self.loaded().map(|it| it.shared().state().spent);
        let left = backend
            .request_budget()
            .saturating_sub(spent.unwrap_or_default());
        let load = backend.store.load(&token.handle, Freshness::Latest);
        let Ok(loaded) = within(deadline(Instant::now(), left), load).await else {
            return false;
        };
        let Ok(Some(stored)) = loaded.bytes() else {
            return false;
        };
        let check = |record| {
            self.context
                .check_secret(&record, &token.secret, backend.now())
        };
        matches!(
            Record::decode(stored.value()).map(check),
            Ok(TokenCheck::Valid)
        )
    }
}
