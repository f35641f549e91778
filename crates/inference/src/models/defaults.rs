//! Which version of a model its name alone means, of those that are loaded.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use prediction::ModelName;

use super::{
    Key, Look,
    seen::{Known, Seen},
};
use crate::{
    LoadError,
    versions::{Declared, is_default},
};

/// What a model's name alone means.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning<'a> {
    /// This version.
    Version(&'a Key),
    /// What it meant before: what it shall mean is not loaded, or cannot be told.
    AsBefore,
}

impl Seen {
    /// Takes over what is declared now; returns what is wrong with it, once it has stayed so for a look.
    pub(super) fn declare(&mut self, declared: Declared, look: Look) -> Vec<LoadError> {
        let faults_of = |declared: &Declared| -> Vec<LoadError> {
            declared.values().filter_map(|label| label.as_ref().err()).cloned().collect()
        };
        let before = faults_of(&self.declared);
        let mut faults = faults_of(&declared);
        faults.retain(|fault| look == Look::AtOnce || before.contains(fault));
        let told = std::mem::replace(&mut self.told, faults.clone());
        self.declared = declared;
        faults.retain(|fault| look == Look::AtOnce || !told.contains(fault));
        for fault in &faults {
            let path = fault.path.display();
            tracing::error!(%path, reason = fault.reason, "the default version cannot be told; it stays what it was");
        }
        faults
    }

    /// Warns, once, of default versions that are declared where no model lies, as while its files are still to come.
    pub(super) fn warn_of_absent_defaults(&mut self) {
        let mut absent = BTreeSet::new();
        for (name, declared) in &self.declared {
            let Ok(label) = declared else { continue };
            let lies = |known: &Known| known.name.as_ref() == Some(name) && known.label.as_ref() == Some(label);
            if self.places.values().any(lies) {
                continue;
            }
            absent.insert(name.clone());
            if !self.told_absent.contains(name) {
                let (model, label) = (name.as_str(), label.as_str());
                tracing::warn!(
                    model,
                    label,
                    "no model lies where its default version is declared to be; until one does, \
                    the name alone means what it meant, and nothing if that was nothing"
                );
            }
        }
        self.told_absent = absent;
    }

    /// What each model's name alone means; nothing where that is declared nowhere. `named`: the directories that are named by
    /// themselves.
    pub(super) fn meanings(&self, named: &[PathBuf]) -> BTreeMap<&ModelName, Meaning<'_>> {
        let mut meanings = BTreeMap::new();
        for known in self.places.values() {
            let Some(name) = &known.name else { continue };
            let meaning = match self.declared.get(name) {
                Some(Err(_)) => Meaning::AsBefore,
                _ if is_default(&self.declared, name, known.label.as_ref()) => {
                    known.holds.as_ref().map_or(Meaning::AsBefore, Meaning::Version)
                }
                _ => continue,
            };
            let is_another = meanings.get(name).is_some_and(|other| *other != meaning);
            meanings.insert(name, if is_another { Meaning::AsBefore } else { meaning });
        }
        // The directory that is declared has no model in it yet.
        for name in self.declared.keys() {
            meanings.entry(name).or_insert(Meaning::AsBefore);
        }
        for dir in named {
            let key = self.places.get(dir).filter(|known| known.name.is_none()).and_then(|known| known.holds.as_ref());
            if let Some(key) = key {
                meanings.entry(&key.0).or_insert(Meaning::Version(key));
            }
        }
        meanings
    }
}
