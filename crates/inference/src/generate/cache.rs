//! Keys and values of the tokens that a sequence has been through: what is left to compute is its next tokens.

use super::config::Config;

/// Those of one sequence, of all layers; memory for all tokens that it may have is taken at once, and touched as they come.
pub(super) struct Cache {
    /// By layer, head of keys, token.
    keys: Vec<f32>,
    values: Vec<f32>,
    key_heads: usize,
    head_width: usize,
    capacity: usize,
    /// Tokens that are in it.
    length: usize,
}

impl Cache {
    /// An empty one for so many tokens.
    pub(super) fn new(config: &Config, capacity: usize) -> Self {
        let numbers = config.layers * config.key_heads * capacity * config.head_width;
        let (keys, values) = (vec![0.0; numbers], vec![0.0; numbers]);
        Self { keys, values, key_heads: config.key_heads, head_width: config.head_width, capacity, length: 0 }
    }

    /// Tokens that are in it.
    pub(super) fn len(&self) -> usize {
        self.length
    }

    /// Tokens that it has memory for.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Puts the key and the value of one head of the token `ahead` tokens after the last. It counts once all layers
    /// have theirs: see [`Self::advance`].
    pub(super) fn put(&mut self, layer: usize, head: usize, ahead: usize, key: &[f32], value: &[f32]) {
        let token = self.length + ahead;
        assert!(token < self.capacity, "a sequence has no more tokens than its cache has memory for");
        let at = self.head(layer, head) + token * self.head_width;
        self.keys[at..at + self.head_width].copy_from_slice(key);
        self.values[at..at + self.head_width].copy_from_slice(value);
    }

    /// The keys and the values of one head, token after token, of those that are in it and so many ahead.
    pub(super) fn get(&self, layer: usize, head: usize, ahead: usize) -> (&[f32], &[f32]) {
        let at = self.head(layer, head);
        let range = at..at + (self.length + ahead) * self.head_width;
        (&self.keys[range.clone()], &self.values[range])
    }

    /// So many tokens more are in it, with all layers.
    pub(super) fn advance(&mut self, tokens: usize) {
        self.length += tokens;
    }

    fn head(&self, layer: usize, head: usize) -> usize {
        (layer * self.key_heads + head) * self.capacity * self.head_width
    }
}
