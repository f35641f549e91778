//! Follows the directories of models while predictions run: what is new there is loaded, then published, then taken tickets for;
//! what is gone is withdrawn first, then finishes what was accepted for it, then is unloaded.
//!
//! The directories are looked at again and again, which costs a few system calls each time, rather than watched: notifications
//! of the system tell nothing of changes that other machines make to a shared file system.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use inference::Look;
use prediction::{ModelName, Version};
use tokio::{task::spawn_blocking, time::sleep};

use crate::{node::Node, publish, stop::propagate_panic};

/// How often directories are looked at that nobody said anything of.
const EVERY: Duration = Duration::from_secs(2);

/// How long a version that is withdrawn may still be asked for: until the publishing that was under way is followed by another
/// (five seconds), an API has read what is published (one), and what it let in by then is written (a call may take twelve).
const ASKED_FOR: Duration = Duration::from_secs(20);

/// Versions that are withdrawn, since when.
type Withdrawn = HashMap<(ModelName, Version), Instant>;

/// Follows them until the worker stops.
pub(crate) async fn follow(node: Arc<Node>) {
    let mut withdrawn = Withdrawn::new();
    let mut rest = None;
    loop {
        let look = match rest {
            Some(look) => look,
            None => tokio::select! {
                () = node.stop.cancelled() => return,
                () = node.config.look.notified() => {
                    tracing::info!("told to look at the directories of models");
                    Look::AtOnce
                }
                () = sleep(EVERY) => Look::Settled,
            },
        };
        let models = node.models.clone();
        let changes = match node.stop.run_until_cancelled(spawn_blocking(move || models.look(look))).await {
            Some(Ok(changes)) => changes,
            Some(Err(error)) => return propagate_panic(Err(error)),
            None => return,
        };
        rest = changes.is_partial().then_some(look);
        let retired = node.models.retired();
        withdrawn.retain(|version, _| retired.contains(version));
        if !changes.is_empty() || retired.len() > withdrawn.len() {
            // When the store is away it is published later, as ever.
            if node.ask(publish::publish(&node)).await.is_ok() {
                for version in retired {
                    withdrawn.entry(version).or_insert_with(Instant::now);
                }
            }
            node.other_versions.notify_one();
        }
        unload(&node, &mut withdrawn).await;
    }
}

/// Unloads what nobody can have asked for any more and has nothing left to run, here or elsewhere: what another worker runs it
/// may hand back.
async fn unload(node: &Node, withdrawn: &mut Withdrawn) {
    let ripe = withdrawn.iter().filter(|(_, since)| since.elapsed() >= ASKED_FOR).map(|(version, _)| version.clone());
    let ripe: Vec<_> = ripe.collect();
    if ripe.is_empty() {
        return;
    }
    let Ok(unfinished) = node.ask(node.store.unfinished(&ripe)).await else {
        // What was let in before the store went away may be written when it is back.
        withdrawn.values_mut().for_each(|since| *since = Instant::now());
        return;
    };
    for (model, version) in ripe.into_iter().filter(|version| !unfinished.contains(version)) {
        node.models.unload(&model, &version);
        withdrawn.remove(&(model, version));
        node.other_versions.notify_one();
    }
}
