//! The parts that a layer shares with its services.

use std::sync::Arc;

use crate::commit::context::Policy;
use crate::commit::engine::Engine;
use crate::config::SessionConfig;
use crate::middleware::hooks::Hooks;
use crate::store::contract::SessionStore;

/// The parts of a layer. All clones share the engine; a clone may have its own settings and hooks.
#[derive(Clone, Debug)]
pub(crate) struct LayerParts {
    pub(crate) engine: Arc<Engine>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) hooks: Arc<Hooks>,
}

impl LayerParts {
    pub(crate) fn new(store: impl SessionStore, config: SessionConfig) -> Self {
        Self {
            engine: Arc::new(Engine::new(Box::new(store))),
            policy: Arc::new(Policy::new(config)),
            hooks: Arc::default(),
        }
    }

    pub(crate) fn config_mut(&mut self) -> &mut SessionConfig {
        &mut Arc::make_mut(&mut self.policy).config
    }
}
