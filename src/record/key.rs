//! The names of session values.

use std::fmt;
use std::marker::PhantomData;

/// The name of a session value together with its type, so that an application writes both only once.
///
/// ```
/// # use serde::{Deserialize, Serialize};
/// # use sessile::{Key, Session, SessionError};
/// # #[derive(Default, Serialize, Deserialize)] struct Cart;
/// const CART: Key<Cart> = Key::new("cart");
/// const VISITS: Key<i64> = Key::new("visits");
/// const SEEN: Key<Vec<String>> = Key::new("seen");
///
/// # fn handler(session: Session) -> Result<(), SessionError> {
/// let cart = session.get(CART)?.unwrap_or_default();
/// let visits = session.increment(VISITS, 1)?;
/// session.push(SEEN, "home".to_owned())?;
/// # Ok(())
/// # }
/// ```
///
/// A call with a key of the wrong type does not compile. `increment` takes only a `Key<i64>`:
///
/// ```compile_fail,E0277
/// # use sessile::{Key, Session, SessionError};
/// const NAME: Key<String> = Key::new("name");
///
/// # fn handler(session: Session) -> Result<(), SessionError> {
/// session.increment(NAME, 1)?;
/// # Ok(())
/// # }
/// ```
///
/// and `push` takes only an item of the key's list:
///
/// ```compile_fail,E0277
/// # use sessile::{Key, Session, SessionError};
/// const SEEN: Key<Vec<String>> = Key::new("seen");
///
/// # fn handler(session: Session) -> Result<(), SessionError> {
/// session.push(SEEN, 1_u32)?;
/// # Ok(())
/// # }
/// ```
pub struct Key<T> {
    name: &'static str,
    of: PhantomData<fn() -> T>,
}

impl<T> Key<T> {
    /// Creates a key with this name.
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            of: PhantomData,
        }
    }

    /// Returns the name under which the value is stored.
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

/// The name of a session value of any type, for calls that do not read the value, such as
/// [`Session::contains_key`](crate::Session::contains_key).
///
/// Strings and [`Key`]s implement it, and so do references to them. Implement it for your own type to use that type as a key, and
/// implement [`SessionKey`] for the types of its values.
///
/// ```
/// # use sessile::{KeyName, Session, SessionError, SessionKey};
/// struct CartOf {
///     name: String,
/// }
///
/// impl CartOf {
///     fn new(shop: u32) -> Self {
///         Self { name: format!("cart/{shop}") }
///     }
/// }
///
/// impl KeyName for CartOf {
///     fn name(&self) -> &str {
///         &self.name
///     }
/// }
///
/// impl SessionKey<Vec<String>> for CartOf {}
///
/// # fn handler(session: Session, shop: u32) -> Result<(), SessionError> {
/// let cart = CartOf::new(shop);
/// if !session.contains_key(&cart) {
///     session.push(cart, "tea".to_owned())?;
/// }
/// # Ok(())
/// # }
/// ```
pub trait KeyName {
    /// Returns the name under which the value is stored.
    fn name(&self) -> &str;
}

/// The key of a session value of type `T`: a [`Key<T>`](Key), or a string, which may name a value of any type.
pub trait SessionKey<T>: KeyName {}

impl KeyName for str {
    fn name(&self) -> &str {
        self
    }
}

impl KeyName for String {
    fn name(&self) -> &str {
        self
    }
}

impl<T> KeyName for Key<T> {
    fn name(&self) -> &str {
        self.name
    }
}

impl<K: KeyName + ?Sized> KeyName for &K {
    fn name(&self) -> &str {
        (**self).name()
    }
}

impl<T> SessionKey<T> for str {}

impl<T> SessionKey<T> for String {}

impl<T> SessionKey<T> for Key<T> {}

impl<T, K: SessionKey<T> + ?Sized> SessionKey<T> for &K {}
