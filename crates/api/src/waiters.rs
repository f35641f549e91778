//! The completion bus: wakes those who wait for a prediction, and nobody else. A worker of the same process tells them how it ended, and
//! notices from the queue wake them at once; because notices may be lost, one batched look into the store for all who wait finds the rest.

use std::{sync::Arc, time::Duration};

use queue::Notice;
use tokio::{
    sync::broadcast::error::RecvError::{Closed, Lagged},
    time::MissedTickBehavior,
};

use crate::api::Api;

/// How often the store is asked while notices arrive.
const LOOK: Duration = Duration::from_millis(250);
/// How often it is asked while none do.
const LOOK_WITHOUT_NOTICES: Duration = Duration::from_millis(50);
/// The most ids in one question.
const LOOK_BATCH: usize = 1000;

/// Wakes waiters for ever.
pub(crate) async fn run(api: Arc<Api>) {
    tokio::join!(hear(&api), watch(&api));
}

async fn hear(api: &Api) {
    let mut notices = api.queue.listen();
    loop {
        match notices.recv().await {
            Ok(Notice::Finished(ids)) => api.waiters.wake(&ids),
            Ok(Notice::Canceled(_) | Notice::DeliveriesDue | Notice::Asked(_)) => {}
            Err(Lagged(_)) => look(api).await,
            Err(Closed) => return,
        }
    }
}

async fn watch(api: &Api) {
    let mut ticks = tokio::time::interval(LOOK_WITHOUT_NOTICES);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let patient = LOOK.as_millis() / LOOK_WITHOUT_NOTICES.as_millis();
    let mut skipped = 0;
    loop {
        ticks.tick().await;
        skipped += 1;
        if skipped >= patient || !api.queue.is_healthy() {
            skipped = 0;
            look(api).await;
        }
    }
}

async fn look(api: &Api) {
    for ids in api.waiters.ids().chunks(LOOK_BATCH) {
        // A store that is away now is asked again at the next look.
        if let Ok(finished) = api.in_time(api.store.finished(ids)).await {
            api.waiters.wake(&finished);
        }
    }
}
