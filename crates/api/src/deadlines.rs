//! Deadlines pass whether or not a worker runs: the API ends what is past its own, each second, as workers do.

use std::{sync::Arc, time::Duration};

use queue::Notice;
use store::Sweep;

use crate::api::Api;

const EVERY: Duration = Duration::from_secs(1);

/// Deadlines alone: leases are the workers' business, who know how long theirs are.
const SWEEP: Sweep = Sweep { lease: Duration::ZERO, max_crashes: u32::MAX, limit: 500, leases: false };

/// Keeps deadlines for ever.
pub(crate) async fn keep(api: Arc<Api>) {
    loop {
        tokio::time::sleep(EVERY).await;
        // A store that is away now is asked again soon.
        if let Ok(swept) = api.in_time(api.store.sweep(SWEEP)).await
            && !swept.ended.is_empty()
        {
            api.queue.tell(Notice::Finished(swept.ended.into())).await;
            // Some may have webhooks.
            api.queue.tell(Notice::DeliveriesDue).await;
        }
    }
}
