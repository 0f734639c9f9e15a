//! A call of a store that waits until the test lets it go on.

use tokio::sync::oneshot;

/// Holds one call of a [`TestStore`](crate::testing::TestStore): see [`TestStore::hold`](crate::testing::TestStore::hold).
///
/// The call goes on when this is dropped.
#[derive(Debug)]
#[must_use = "the call goes on when the hold is dropped"]
pub struct Hold {
    arrived: Option<oneshot::Receiver<()>>,
    released: oneshot::Sender<()>,
}

/// The side of the store.
#[derive(Debug)]
pub(crate) struct Held {
    arrived: oneshot::Sender<()>,
    released: oneshot::Receiver<()>,
}

pub(crate) fn hold() -> (Hold, Held) {
    let (arrive, arrived) = oneshot::channel();
    let (release, released) = oneshot::channel();
    let hold = Hold {
        arrived: Some(arrived),
        released: release,
    };
    let held = Held {
        arrived: arrive,
        released,
    };
    (hold, held)
}

impl Hold {
    /// Waits until the call is made. It never ends if the call is never made. Once it has ended, it ends at once.
    ///
    /// # Cancel safety
    ///
    /// The call stays held if the future is dropped.
    pub async fn arrived(&mut self) {
        if let Some(arrived) = &mut self.arrived {
            // An error means that the store is gone, and so is the call.
            let _ = arrived.await;
            self.arrived = None;
        }
    }

    /// Lets the call go on; if it was not made yet, it will not be held.
    pub fn release(self) {
        let _ = self.released.send(());
    }
}

impl Held {
    /// Tells the test that the call is made, and waits until it may go on.
    pub(crate) async fn wait(self) {
        let _ = self.arrived.send(());
        // An error means that the test has dropped its side.
        let _ = self.released.await;
    }
}
