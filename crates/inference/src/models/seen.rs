//! What is remembered of the directories from one look to the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use prediction::{Label, ModelName};

use super::{Key, Look};
use crate::{LoadError, signature::Signature, versions::Declared};

/// What is known of the directories.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) places: BTreeMap<PathBuf, Known>,
    /// Why they could not be listed the last time.
    pub(super) fault: Option<LoadError>,
    /// Which versions are the defaults of their models, as declared at the last look.
    pub(super) declared: Declared,
    /// What is wrong with that, as far as it was reported.
    pub(super) told: Vec<LoadError>,
    /// Models that are declared to have a default version where no model lies, as far as that was reported.
    pub(super) told_absent: BTreeSet<ModelName>,
}

/// What is known of one directory.
#[derive(Default)]
pub(super) struct Known {
    pub(super) name: Option<ModelName>,
    pub(super) label: Option<Label>,
    /// As of the last look.
    pub(super) signature: Option<Signature>,
    /// The last that was acted on, whatever came of it.
    pub(super) acted_on: Option<Signature>,
    /// What was loaded from it last; a directory that is broken now may have been whole before.
    pub(super) holds: Option<Key>,
    /// Whether nothing could be loaded when it was acted on.
    pub(super) is_faulty: bool,
    /// Bytes of memory that there was no room for then.
    pub(super) lacks: Option<u64>,
}

impl Known {
    /// Whether the directory looks as it did at the last look, or is to be trusted at once; remembers how it looks now.
    pub(super) fn has_settled(&mut self, now: &Signature, look: Look) -> bool {
        let before = self.signature.replace(now.clone());
        look == Look::AtOnce || before.as_ref() == Some(now)
    }
}

/// Whether there is no such directory any more; one that cannot be looked at is still there.
pub(super) fn is_gone(dir: &Path) -> bool {
    fs::metadata(dir).is_err_and(|error| matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory))
}
