//! Says what this worker serves and that it is alive, until it stops.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use store::StoreError;

use crate::{backoff::Backoff, node::Node};

const EVERY: Duration = Duration::from_secs(5);

/// Publishes for the first time, however long the store is away; false when the worker is stopped before.
pub(crate) async fn first(node: &Node) -> Result<bool, StoreError> {
    let mut backoff = Backoff::for_store();
    loop {
        match node.stop.run_until_cancelled(publish(node)).await {
            None => return Ok(false),
            Some(Ok(())) => return Ok(true),
            Some(Err(error @ StoreError::Unavailable(_))) => node.outage.saw(&error),
            Some(Err(error)) => return Err(error),
        }
        if !node.pause(backoff.next()).await {
            return Ok(false);
        }
    }
}

/// Publishes again and again until the worker stops.
pub(crate) async fn keep_published(node: Arc<Node>) {
    while node.pause(EVERY).await {
        // The next time is soon enough for whatever went wrong; it has been logged.
        let _ = node.ask(publish(&node)).await;
    }
}

/// Reports the last count of refused completions and says that nothing is served any more.
pub(crate) async fn withdraw(node: &Node) {
    let farewell = async {
        publish(node).await?;
        node.store.withdraw(node.id).await
    };
    // A worker that could not say farewell is forgotten when it has been silent for a while.
    let _ = node.ask(farewell).await;
}

/// Says what is served now.
pub(crate) async fn publish(node: &Node) -> Result<(), StoreError> {
    let _turn = node.publishing.lock().await;
    let stale = node.stale.load(Ordering::Relaxed);
    node.store.publish(node.id, &node.config.host, &node.models.offers(), stale).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{fs, path::Path, sync::Arc};

    use futures::FutureExt as _;
    use inference::{Look, Models};
    use queue::Queue;
    use store::Store;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{Config, complete, tell};

    /// A worker of the models in this directory.
    async fn node(dir: &Path) -> Node {
        let store = Store::open(&store::Location::Sqlite { path: dir.join("augur.db") }).await.unwrap();
        store.migrate().await.unwrap();
        let queue = Queue::open(&queue::Location::InProcess, queue::Config::default()).await.unwrap();
        let models_dir = Some(dir.join("models"));
        let models =
            Models::load(&inference::Config { models_dir, enable_echo: true, ..inference::Config::default() }).unwrap();
        let config = Config {
            lease: Duration::from_secs(60),
            slots: 1,
            grace: Duration::ZERO,
            max_crashes: 3,
            poll_store: false,
            keys_for: Duration::from_secs(60),
            host: "test".to_owned(),
            look: Arc::default(),
        };
        let ((outcomes, _), (finished, _)) = (complete::channel(), tell::channel());
        Node::new(store, queue, models, config, outcomes, finished, CancellationToken::new())
    }

    #[tokio::test]
    async fn whoever_waits_for_a_turn_says_what_is_served_then() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("models/augur/iris");
        fs::create_dir_all(dir.path().join("models")).unwrap();
        let node = node(dir.path()).await;
        let served = async || {
            let models = node.store.models(Duration::from_secs(60)).await.unwrap();
            models.into_iter().map(|model| model.spec.name.to_string()).collect::<Vec<_>>()
        };
        publish(&node).await.unwrap();
        assert_eq!(served().await, ["augur/echo"]);

        let turn = node.publishing.lock().await;
        let mut next = Box::pin(publish(&node));
        assert!(next.as_mut().now_or_never().is_none(), "somebody else is telling");
        fs::create_dir_all(&place).unwrap();
        let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/augur/iris");
        for file in ["model.toml", "model.safetensors", "input.schema.json", "output.schema.json"] {
            fs::copy(shipped.join(file), place.join(file)).unwrap();
        }
        let models = node.models.clone();
        tokio::task::spawn_blocking(move || models.look(Look::AtOnce)).await.unwrap();
        drop(turn);
        next.await.unwrap();
        assert_eq!(served().await, ["augur/echo", "augur/iris"]);
    }
}
