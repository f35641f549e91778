//! What a run writes while it runs, for those who read along.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::Notify;

/// Those who read drafts of one worker along: mostly nobody.
#[derive(Clone, Debug, Default)]
pub struct Audience(Arc<Attention>);

#[derive(Debug, Default)]
struct Attention {
    is_there: AtomicBool,
    has_grown: Notify,
}

impl Audience {
    /// Says whether there is anybody who wants to be told.
    pub fn attend(&self, is_there: bool) {
        self.0.is_there.store(is_there, Ordering::Release);
    }

    /// Waits until drafts have grown since the last wait.
    pub async fn grown(&self) {
        self.0.has_grown.notified().await;
    }
}

/// The text of one run as far as it cannot change any more, and the seed that it is drawn with when its input names none.
/// Cheap to clone.
#[derive(Clone, Debug)]
pub struct Draft {
    id: u64,
    seed: u64,
    text: Arc<Mutex<String>>,
    audience: Audience,
}

impl Default for Draft {
    /// One that nobody reads along, with a seed by chance.
    fn default() -> Self {
        Self::new(rand::random(), Audience::default())
    }
}

impl Draft {
    /// An empty one.
    #[must_use]
    pub fn new(seed: u64, audience: Audience) -> Self {
        Self { id: rand::random(), seed, text: Arc::default(), audience }
    }

    /// What tells it from the drafts of other runs, by chance.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// What comes after the first `from` bytes, up to `most` bytes of it, cut between characters; nothing when there is
    /// no more.
    #[must_use]
    pub fn after(&self, from: usize, most: usize) -> Option<Arc<str>> {
        let text = self.lock();
        let rest = text.get(from..)?;
        let part = &rest[..rest.floor_char_boundary(most)];
        (!part.is_empty()).then(|| part.into())
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    /// Adds what `text` has beyond what is there already.
    pub(crate) fn grow_to(&self, text: &str) {
        let mut grown = self.lock();
        if let Some(more) = text.get(grown.len()..) {
            grown.push_str(more);
        }
    }

    /// Tells those who read along that it may have grown, if there are any.
    pub(crate) fn announce(&self) {
        if self.audience.0.is_there.load(Ordering::Acquire) {
            self.audience.0.has_grown.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, String> {
        self.text.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[test]
    fn a_draft_is_read_from_anywhere_between_characters() {
        let draft = Draft::default();
        assert_eq!(draft.after(0, 10), None);
        draft.grow_to("a\u{fc}");
        draft.grow_to("a\u{fc}\u{1F6A2}z");
        assert_eq!(draft.after(0, 10).as_deref(), Some("a\u{fc}\u{1F6A2}z"));
        assert_eq!(draft.after(1, 5).as_deref(), Some("\u{fc}"));
        assert_eq!((draft.after(2, 5), draft.after(8, 5), draft.after(9, 5)), (None, None, None));
    }

    #[test]
    fn only_those_who_attend_are_told() {
        let audience = Audience::default();
        let draft = Draft::new(1, audience.clone());
        draft.announce();
        assert!(audience.grown().now_or_never().is_none());
        audience.attend(true);
        draft.announce();
        assert!(audience.grown().now_or_never().is_some());
    }
}
