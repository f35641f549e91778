//! How long a request waits for the store: while the database is away, callers are told so quickly.

use std::{future::Future, time::Duration};

use futures::FutureExt as _;
use tokio::time::timeout;

use crate::problem::Problem;

/// How long a server waits for one call on the store.
pub const STORE_PATIENCE: Duration = Duration::from_millis(1500);

/// The longest wait for one call on the store.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience(pub(crate) Duration);

impl Patience {
    /// Awaits a call on the store, but not for long. (An `async fn` would hold the call twice: as it came, and as it is awaited.)
    pub(crate) fn in_time<T, E: Into<Problem>>(
        self,
        call: impl Future<Output = Result<T, E>>,
    ) -> impl Future<Output = Result<T, Problem>> {
        timeout(self.0, call).map(move |answered| match answered {
            Ok(answer) => answer.map_err(Into::into),
            Err(_) => {
                tracing::warn!("the store took longer than {:?}", self.0);
                Err(Problem::store_unavailable())
            }
        })
    }
}
