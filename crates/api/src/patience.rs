//! How long a request waits for the store: while the database is away, callers are told so quickly.

use std::{future::Future, time::Duration};

use crate::problem::Problem;

/// The longest wait for one call on the store.
const PATIENCE: Duration = Duration::from_millis(1500);

/// Awaits a call on the store, but not for long.
pub(crate) async fn from_store<T, E: Into<Problem>>(call: impl Future<Output = Result<T, E>>) -> Result<T, Problem> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => answer.map_err(Into::into),
        Err(_) => {
            tracing::warn!("the store took longer than {PATIENCE:?}");
            Err(Problem::store_unavailable())
        }
    }
}
