//! Heads that were removed, as `config.json` says it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

/// By layer, the heads that it lacks, both counted from 0: as transformers up to version 4 writes what its `prune_heads` removed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub(crate) struct PrunedHeads(BTreeMap<usize, BTreeSet<usize>>);

impl PrunedHeads {
    /// Says what is wrong with them where there were so many layers of so many heads, if anything.
    pub(crate) fn check(&self, layers: usize, heads: usize) -> Result<(), String> {
        for (layer, pruned) in &self.0 {
            if *layer >= layers {
                return Err(format!("pruned_heads has layer {layer}, but there are {layers}, counted from 0"));
            }
            if let Some(head) = pruned.last().filter(|head| **head >= heads) {
                return Err(format!("pruned_heads has head {head}, but there are {heads}, counted from 0"));
            }
            if pruned.len() == heads {
                return Err(format!("pruned_heads leaves layer {layer} no head"));
            }
        }
        Ok(())
    }

    /// How many a layer lacks.
    pub(crate) fn of(&self, layer: usize) -> usize {
        self.0.get(&layer).map_or(0, BTreeSet::len)
    }

    /// Those that a layer has of so many, as they were counted before any was removed.
    pub(crate) fn left(&self, layer: usize, heads: usize) -> Vec<usize> {
        let pruned = self.0.get(&layer);
        (0..heads).filter(|head| pruned.is_none_or(|pruned| !pruned.contains(head))).collect()
    }
}
