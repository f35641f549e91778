//! Taking a running prediction back.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

/// Lets the owner of a running prediction take it back: its waiter is answered at once, it is dropped between batches, and
/// within one where the model can.
#[derive(Clone, Debug, Default)]
pub struct Abandon(Arc<State>);

#[derive(Debug, Default)]
struct State {
    abandoned: AtomicBool,
    changed: Notify,
}

impl Abandon {
    /// Takes the prediction back.
    pub fn abandon(&self) {
        self.0.abandoned.store(true, Ordering::Release);
        self.0.changed.notify_waiters();
    }

    /// Whether it was taken back.
    #[must_use]
    pub fn is_abandoned(&self) -> bool {
        self.0.abandoned.load(Ordering::Acquire)
    }

    /// Whether both take back the same prediction.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Waits until it is taken back.
    pub(crate) async fn abandoned(&self) {
        // Registered before the flag is read: what happens in between is not missed.
        let changed = self.0.changed.notified();
        if !self.is_abandoned() {
            changed.await;
        }
    }
}

/// Takes a prediction back when nobody waits for it any more.
pub(crate) struct AbandonOnDrop(pub(crate) Abandon);

impl Drop for AbandonOnDrop {
    fn drop(&mut self) {
        self.0.abandon();
    }
}
