//! Whose turn it is to run batches: what lets the next batch begin on threads that have nothing left to do of one that has not ended.

/// The turn, held by the thread that runs a batch.
pub(crate) struct Turn<'a> {
    pass: Option<&'a mut dyn FnMut() -> bool>,
}

impl<'a> Turn<'a> {
    /// One that `pass` passes on, if somebody waits for it who would have something to run.
    pub(crate) fn new(pass: &'a mut dyn FnMut() -> bool) -> Self {
        Self { pass: Some(pass) }
    }

    /// Of somebody whom nobody follows.
    pub(crate) fn kept() -> Self {
        Self { pass: None }
    }

    /// Passes it on, and says whether it was: then the next batch begins at once, and whoever ran this one is to leave its
    /// processor to that.
    pub(crate) fn pass(&mut self) -> bool {
        self.pass.as_mut().is_some_and(|pass| pass())
    }
}
