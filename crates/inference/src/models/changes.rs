//! What a look at the directories changed.

use std::collections::BTreeSet;

use prediction::{ModelName, Version};

use crate::LoadError;

/// How far a look trusts what it sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// What has changed since the last look may be half written, and is left until it stays as it is from one look to the next.
    Settled,
    /// Somebody says that all is in place.
    AtOnce,
}

/// What a look changed.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// What is served now and was not before.
    pub served: Vec<(ModelName, Version)>,
    /// What is no longer to be published.
    pub retired: Vec<(ModelName, Version)>,
    /// Models whose name alone means another version than before, or none.
    pub defaults: BTreeSet<ModelName>,
    /// What could not be loaded; told once, and again when somebody says that all is in place.
    pub faults: Vec<LoadError>,
}

impl Changes {
    /// Whether there may be more to load: a look ends with the first model that it serves.
    #[must_use]
    pub fn is_partial(&self) -> bool {
        !self.served.is_empty()
    }

    /// Whether what is served is as before.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.served.is_empty() && self.retired.is_empty() && self.defaults.is_empty()
    }
}
