//! How long a request waits for the store: while the database is away, callers are told so quickly.

use std::{future::Future, time::Duration};

use futures::FutureExt as _;
use tokio::time::timeout;

use crate::problem::Problem;

/// The longest wait for one call on the store.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Awaits a call on the store, but not for long. (An `async fn` would hold the call twice: as it came, and as it is awaited.)
pub(crate) fn from_store<T, E: Into<Problem>>(
    call: impl Future<Output = Result<T, E>>,
) -> impl Future<Output = Result<T, Problem>> {
    timeout(PATIENCE, call).map(|answered| match answered {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => {
            tracing::warn!("the store took longer than {PATIENCE:?}");
            Err(Problem::store_unavailable())
        }
    })
}
