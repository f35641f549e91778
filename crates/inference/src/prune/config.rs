//! What `config.json` says of a pruned transformer, in the words of transformers.

use std::{fs, path::Path};

use serde_json::{Map, Value, json};

use super::Removed;
use crate::{LoadError, plain::read_json, transformer::Anatomy};

/// Changes the copy of the file at `path`; `anatomy` is the model's as it was.
///
/// # Errors
/// When it cannot be read or written.
pub(super) fn write(path: &Path, anatomy: &Anatomy, removed: &Removed) -> Result<(), LoadError> {
    let heads: Vec<Vec<usize>> = match removed {
        Removed::Heads(removed) => {
            let less = |(heads, removed): (&Vec<usize>, &Vec<usize>)| {
                heads.iter().copied().filter(|head| !removed.contains(head)).collect()
            };
            anatomy.heads.iter().zip(removed).map(less).collect()
        }
        Removed::Layers(removed) => {
            let left = anatomy.heads.iter().enumerate().filter(|(layer, _)| !removed.contains(layer));
            left.map(|(_, heads)| heads.clone()).collect()
        }
        Removed::Weights { .. } => return Ok(()),
    };
    let mut config = read(path)?;
    // DistilBERT has a word of its own.
    let layers = if config.contains_key("n_layers") { "n_layers" } else { "num_hidden_layers" };
    config.insert(layers.to_owned(), heads.len().into());
    config.remove("pruned_heads");
    let lacking = lacking(&heads, anatomy.heads_at_first);
    if !lacking.is_empty() {
        config.insert("pruned_heads".to_owned(), Value::Object(lacking));
    }
    write_back(path, &config)
}

/// Adds a text to the file at `path`, or changes it.
///
/// # Errors
/// When it cannot be read or written.
pub(super) fn say(path: &Path, key: &str, text: &str) -> Result<(), LoadError> {
    let mut config = read(path)?;
    config.insert(key.to_owned(), text.into());
    write_back(path, &config)
}

fn read(path: &Path) -> Result<Map<String, Value>, LoadError> {
    read_json(path)?.ok_or_else(|| LoadError::new(path, "is missing"))
}

fn write_back(path: &Path, config: &Map<String, Value>) -> Result<(), LoadError> {
    let text = serde_json::to_string_pretty(config).map_err(|error| LoadError::new(path, error.to_string()))?;
    fs::write(path, text + "\n").map_err(|error| LoadError::new(path, format!("cannot be written: {error}")))
}

/// By layer, the heads that it lacks; layers with all of theirs are left out.
fn lacking(heads: &[Vec<usize>], at_first: usize) -> Map<String, Value> {
    let lacking = heads.iter().enumerate().filter(|(_, heads)| heads.len() < at_first);
    let lacking = lacking.map(|(layer, heads)| {
        let pruned: Vec<usize> = (0..at_first).filter(|head| !heads.contains(head)).collect();
        (layer.to_string(), json!(pruned))
    });
    lacking.collect()
}
