//! Tops streams up: whatever waits, is due and has no ticket gets one, by one node at a time, as far as the windows go.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use prediction::{PredictionId, StreamKey, Ticket};
use store::{Due, Lead};
use time::OffsetDateTime;
use tokio::time::sleep;

use crate::{node::Node, outage::Trouble};

const ROLE: &str = "dispatcher";
const EVERY: Duration = Duration::from_secs(1);
/// How often the others ask whether the role is free.
const EVERY_WHILE_ANOTHER: Duration = Duration::from_secs(3);
/// The pause after a pass that found much: a long backlog moves as fast as it is worked off.
const EVERY_WHILE_BUSY: Duration = Duration::from_millis(100);
/// A pass that takes this long asks for the role in between: the session of one who does not ask for some seconds ends.
const ROLE_GOOD_FOR: Duration = Duration::from_secs(1);
/// Tickets in one push, and pushes to one stream in one pass.
const BATCH: u32 = 1000;
const ROUNDS: u32 = 10;
/// A ticket queued longer ago than this, in a stream where none is left, is lost.
const LOST_AFTER: Duration = Duration::from_secs(5);

/// Tops up while this node is the dispatcher, until it is over: as long as it drains, it would keep the role from others.
/// A node that cannot reach the queue does not ask to be.
pub(crate) async fn top_up(node: Arc<Node>) {
    let mut dispatcher = Dispatcher::default();
    let mut pause = EVERY;
    while node.over.run_until_cancelled(sleep(pause)).await.is_some() {
        let lead = if node.queue.is_healthy() {
            dispatcher.ask_for_role(&node).await.ok()
        } else {
            // Another node's link to the queue may be whole.
            dispatcher.resign(&node).await;
            None
        };
        node.another_leads.store(lead == Some(Lead::Another), Ordering::Relaxed);
        pause = match lead {
            Some(Lead::Another) => EVERY_WHILE_ANOTHER,
            Some(Lead::Kept | Lead::Begun) => match dispatcher.pass(&node).await {
                Ok(Pass { is_busy: true }) => EVERY_WHILE_BUSY,
                Ok(Pass { is_busy: false }) | Err(_) => EVERY,
            },
            None => EVERY,
        };
    }
}

#[derive(Default)]
struct Dispatcher {
    /// What is known of each stream since this node is the dispatcher. A stream seen for the first time counts as
    /// emptied: tickets may have been lost while nobody looked, and a doubled one claims nothing.
    lives: HashMap<StreamKey, Life>,
    /// Refused tickets that could not be recorded as such.
    unmarked: Vec<PredictionId>,
    /// When this node was last known to be the dispatcher.
    held_at: Option<Instant>,
}

/// The life of a stream's contents.
#[derive(Clone, Copy)]
struct Life {
    generation: u64,
    /// When it was noticed, on the database's clock: tickets queued before then are gone.
    noticed_at: OffsetDateTime,
}

/// What one look at every stream showed.
struct Pass {
    /// Whether a window was filled, or much was queued: there is more to come soon.
    is_busy: bool,
}

impl Dispatcher {
    /// Asks for the role, or keeps it.
    async fn ask_for_role(&mut self, node: &Node) -> Result<Lead, Trouble> {
        let asked_at = Instant::now();
        let lead = node.ask(node.store.lead(ROLE)).await?;
        self.held_at = (lead != Lead::Another).then_some(asked_at);
        if lead != Lead::Kept {
            // Whoever dispatched meanwhile knows better; and the database may have crashed, and taken claims back whose tickets
            // are gone.
            self.lives.clear();
        }
        Ok(lead)
    }

    async fn resign(&mut self, node: &Node) {
        node.store.resign(ROLE).await;
        self.held_at = None;
        self.lives.clear();
    }

    /// Whether this pass may go on: not when the role was lost meanwhile, even if it has begun anew.
    async fn keeps_role(&mut self, node: &Node) -> Result<bool, Trouble> {
        let is_held = self.held_at.is_some_and(|held_at| held_at.elapsed() < ROLE_GOOD_FOR);
        Ok(is_held || self.ask_for_role(node).await? == Lead::Kept)
    }

    /// One look at every stream.
    async fn pass(&mut self, node: &Node) -> Result<Pass, Trouble> {
        self.mark_refused(node).await?;
        let mut is_busy = false;
        for stream in node.ask(node.store.waiting_streams()).await? {
            if !self.keeps_role(node).await? {
                return Ok(Pass { is_busy: true });
            }
            let depth = match node.queue.depth(&stream).await {
                Ok(depth) => depth,
                // One stream that cannot be read is not the others' fault.
                Err(_) if node.queue.is_healthy() => continue,
                Err(_) => break,
            };
            let life = self.life(node, &stream, depth.generation).await?;
            let queued_for = (depth.undelivered == 0).then_some(LOST_AFTER);
            let due = Due { queued_before: Some(life.noticed_at), queued_for };
            is_busy |= match self.fill(node, &stream, due).await {
                // Neither is one prediction that the store refuses to mark: its own stream alone waits for whoever asks the store.
                Err(Trouble::Refused) => false,
                filled => filled?,
            };
        }
        Ok(Pass { is_busy })
    }

    async fn life(&mut self, node: &Node, stream: &StreamKey, generation: u64) -> Result<Life, Trouble> {
        if let Some(life) = self.lives.get(stream).filter(|life| life.generation == generation) {
            return Ok(*life);
        }
        // Asked after the generation was read, so that every ticket that is gone was queued before.
        let life = Life { generation, noticed_at: node.ask(node.store.now()).await? };
        self.lives.insert(stream.clone(), life);
        Ok(life)
    }

    /// Queues tickets until nothing is due or the window is full; whether there may be more.
    async fn fill(&mut self, node: &Node, stream: &StreamKey, due: Due) -> Result<bool, Trouble> {
        for _ in 0..ROUNDS {
            if !node.queue.has_room(stream) || node.over.is_cancelled() || !self.keeps_role(node).await? {
                break;
            }
            let ids = node.ask(node.store.take_due(stream, due, BATCH)).await?;
            let taken = ids.len();
            let tickets = ids.into_iter().map(|id| Ticket { id, stream: stream.clone() }).collect();
            let refused = node.queue.push(tickets).await;
            self.unmarked.extend(refused.iter().map(|ticket| ticket.id));
            self.mark_refused(node).await?;
            if !refused.is_empty() {
                return Ok(true);
            }
            if taken < BATCH as usize {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn mark_refused(&mut self, node: &Node) -> Result<(), Trouble> {
        if !self.unmarked.is_empty() {
            match node.ask(node.store.mark_unqueued(&self.unmarked)).await {
                // They are found by their age, like tickets that are lost.
                Ok(()) | Err(Trouble::Refused) => self.unmarked.clear(),
                Err(Trouble::Away) => return Err(Trouble::Away),
            }
        }
        Ok(())
    }
}
