//! A layer inside another one with the same cookie, or the same token header: it uses the outer layer's session, and the outer
//! layer's settings apply.

use std::sync::Arc;

use crate::event::Event;
use crate::middleware::carrier::name;
use crate::middleware::parts::LayerParts;
use crate::store::erased::is_same_store;

/// Emits an event that names the settings of the inner layer which have no effect, once for each pair of layers.
pub(crate) fn report_ignored_settings(inner: &LayerParts, outer: &LayerParts) {
    let ignored = ignored_settings(inner, outer);
    let pair = [
        Arc::as_ptr(&outer.policy).addr(),
        Arc::as_ptr(&outer.hooks).addr(),
        Arc::as_ptr(&inner.policy).addr(),
        Arc::as_ptr(&inner.hooks).addr(),
    ];
    if ignored.is_empty() || !outer.engine.backend.reported.joined.is_first(pair) {
        return;
    }
    let event = Event::SettingsIgnored {
        cookie: name(&inner.policy.config).to_owned(),
        settings: ignored,
    };
    outer.policy.emit(&event);
    // The observer of the inner layer gets the event too, since its settings are the ones that are ignored.
    if is_other(
        inner.policy.observer.as_ref(),
        outer.policy.observer.as_ref(),
    ) {
        inner.policy.notify(&event);
    }
}

fn ignored_settings(inner: &LayerParts, outer: &LayerParts) -> Vec<&'static str> {
    let is_same_engine = Arc::ptr_eq(&inner.engine, &outer.engine);
    let other_store = !is_same_engine
        && !is_same_store(&*inner.engine.backend.store, &*outer.engine.backend.store);
    let client_ip = is_other(
        inner.hooks.client_ip.as_ref(),
        outer.hooks.client_ip.as_ref(),
    );
    let cookie_domain = is_other(
        inner.hooks.cookie_domain.as_ref(),
        outer.hooks.cookie_domain.as_ref(),
    );
    let on_error = is_other(inner.hooks.on_error.as_ref(), outer.hooks.on_error.as_ref());
    let observer = is_other(
        inner.policy.observer.as_ref(),
        outer.policy.observer.as_ref(),
    );
    let store = other_store.then_some("store");
    let hooks = [
        ("client_ip", client_ip),
        ("cookie_domain", cookie_domain),
        ("on_error", on_error),
        ("observer", observer),
    ];
    let hooks = hooks
        .into_iter()
        .filter_map(|(name, other)| other.then_some(name));
    let settings = inner.policy.config.differences(&outer.policy.config);
    store.into_iter().chain(settings).chain(hooks).collect()
}

/// Whether the inner layer has a hook that is not the outer layer's.
fn is_other<T: ?Sized>(inner: Option<&Arc<T>>, outer: Option<&Arc<T>>) -> bool {
    inner.is_some_and(|inner| outer.is_none_or(|outer| !Arc::ptr_eq(inner, outer)))
}
