//! Names of session values.

use std::fmt;
use std::marker::PhantomData;

/// The name of a session value together with its type, so that both are written once.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # use sessile::{Key, Session, SessionError};
/// # #[derive(Default, Serialize, Deserialize)] struct Cart;
/// const CART: Key<Cart> = Key::new("cart");
///
/// # fn handler(session: Session) -> Result<(), SessionError> {
/// let cart = session.get(CART)?.unwrap_or_default();
/// # Ok(())
/// # }
/// ```
pub struct Key<T> {
    name: &'static str,
    of: PhantomData<fn() -> T>,
}

impl<T> Key<T> {
    /// A key of this name.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            of: PhantomData,
        }
    }

    /// The name, for calls that take one, such as [`Session::increment`](crate::Session::increment).
    pub const fn name(self) -> &'static str {
        self.name
    }
}

impl<T> Clone for Key<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Key<T> {}

impl<T> fmt::Debug for Key<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key<{}>({:?})", std::any::type_name::<T>(), self.name)
    }
}

/// What names a session value: a string, or a [`Key`] that also knows the type.
pub trait SessionKey<T> {
    /// The name.
    fn name(&self) -> &str;
}

impl<T> SessionKey<T> for &str {
    fn name(&self) -> &str {
        self
    }
}

impl<T> SessionKey<T> for &String {
    fn name(&self) -> &str {
        self
    }
}

impl<T> SessionKey<T> for Key<T> {
    fn name(&self) -> &str {
        self.name
    }
}
