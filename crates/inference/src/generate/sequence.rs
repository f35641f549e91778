//! One prompt and the text that follows it, on its way.

use prediction::Failure;
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::{
    cache::Cache,
    config::Config,
    decoder::Part,
    failed,
    input::Request,
    sample::{Random, Sampling, choose},
    tokenize::Tokenizer,
    transcript::Transcript,
};
use crate::Draft;

/// A sequence: what it was asked for, and how far it is.
pub(super) struct Sequence {
    prompt: Vec<u32>,
    max_tokens: usize,
    sampling: Sampling,
    random: Random,
    cache: Cache,
    transcript: Transcript,
    draft: Draft,
    /// How many tokens were drawn.
    drawn: usize,
    /// The last that was drawn, which is not in the cache yet.
    last: u32,
    /// How it ended.
    outcome: Option<Result<Box<RawValue>, Failure>>,
}

#[derive(Clone, Copy, Serialize)]
#[serde(rename_all = "lowercase")]
enum FinishReason {
    Stop,
    Length,
}

#[derive(Serialize)]
struct Output {
    text: String,
    finish_reason: FinishReason,
    prompt_tokens: usize,
    completion_tokens: usize,
}

impl Sequence {
    /// One that has not begun; takes the memory for all tokens that it may have.
    pub(super) fn new(config: &Config, request: &Request, draft: Draft) -> Self {
        Self {
            prompt: request.prompt.clone(),
            max_tokens: request.max_tokens,
            sampling: request.sampling,
            random: Random::new(request.seed.unwrap_or(draft.seed())),
            cache: Cache::new(config, request.tokens()),
            transcript: Transcript::new(request.stop.clone()),
            draft,
            drawn: 0,
            last: 0,
            outcome: None,
        }
    }

    /// Tokens that it has memory for.
    pub(super) fn reserved(&self) -> usize {
        self.cache.capacity()
    }

    /// What it goes through the decoder with next: its last token, or as much of its prompt as there is room for, which is then
    /// less. Nothing when it has ended or there is no room.
    pub(super) fn next<'a>(&'a mut self, room: &mut usize) -> Option<Part<'a>> {
        if self.outcome.is_some() {
            return None;
        }
        let rest = &self.prompt[self.cache.len().min(self.prompt.len())..];
        if rest.is_empty() {
            return Some(Part { tokens: std::slice::from_ref(&self.last), cache: &mut self.cache, wants_logits: true });
        }
        let tokens = &rest[..rest.len().min(*room)];
        *room -= tokens.len();
        let wants_logits = tokens.len() == rest.len();
        (!tokens.is_empty()).then_some(Part { tokens, cache: &mut self.cache, wants_logits })
    }

    /// Draws the next token; ends when that ends the text, or was the last.
    pub(super) fn draw(&mut self, logits: &[f32], tokenizer: &Tokenizer) {
        let Some(token) = choose(logits, self.sampling, self.random.next()) else {
            self.fail("what it computed holds what is no number");
            return;
        };
        (self.last, self.drawn) = (token, self.drawn + 1);
        if tokenizer.is_end(token) || self.transcript.add(tokenizer.piece(token)) {
            self.finish(FinishReason::Stop);
        } else if self.drawn == self.max_tokens {
            self.finish(FinishReason::Length);
        }
        self.draft.grow_to(self.transcript.settled());
    }

    /// Tells those who read its draft along, if there are any.
    pub(super) fn announce(&self) {
        self.draft.announce();
    }

    /// Ends it without a text; the cause is for the log.
    pub(super) fn fail(&mut self, cause: &str) {
        self.outcome = Some(Err(failed(cause)));
    }

    /// Whether it has ended.
    pub(super) fn has_ended(&self) -> bool {
        self.outcome.is_some()
    }

    /// How it ended, if it has.
    pub(super) fn outcome(self) -> Option<Result<Box<RawValue>, Failure>> {
        self.outcome
    }

    fn finish(&mut self, finish_reason: FinishReason) {
        let output = Output {
            text: self.transcript.finish(),
            finish_reason,
            prompt_tokens: self.prompt.len(),
            completion_tokens: self.drawn,
        };
        match to_raw_value(&output) {
            Ok(output) => self.outcome = Some(Ok(output)),
            Err(error) => self.fail(&error.to_string()),
        }
    }
}
