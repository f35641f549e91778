//! `text-generation`: decoders of the llama family from GGUF files, one token of every running sequence at a time.

mod anatomy;
mod attend;
mod bytes;
mod cache;
mod chat;
mod compare;
mod config;
mod decoder;
mod importance;
mod input;
mod matrix;
mod merges;
mod rope;
mod sample;
mod sequence;
#[cfg(test)]
mod tests;
mod tokenize;
mod transcript;
mod turns;
mod vocabulary;
mod workshop;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use prediction::{Failure, FailureCode, Limits};
use serde_json::{json, value::RawValue};
use tokio::sync::mpsc;

use self::{
    chat::Chat,
    config::Config,
    decoder::Decoder,
    input::{Beginning, Input, Request, invalid, too_long, without_tokens},
    sequence::Sequence,
    tokenize::Tokenizer,
    workshop::Workshop,
};
use crate::{
    Abandon, Draft, LoadError, Machine,
    architecture::{Architecture, Described},
    card,
    engine::{self, Job},
    gguf::{Gguf, Value},
    places,
    prune::words,
    turn::Turn,
};

pub use self::compare::Divergence;
pub(crate) use self::{anatomy::Anatomy, compare::compare, importance::Study};

/// The task, in the field's standard words.
pub(crate) const TASK: &str = "text-generation";

/// The longest one text may take, in seconds.
const TIMEOUT_SECONDS: u32 = 600;

/// The most characters of a name, a licence or a source.
const LONGEST_WORDS: usize = 200;

/// By how much a prompt's bytes may shrink before they are cut into tokens: composing characters makes them shorter.
const SHRINKAGE: usize = 4;

/// A text generator: a decoder and its tokenizer.
pub(crate) struct Generator {
    decoder: Decoder,
    tokenizer: Tokenizer,
    chat: Option<Chat>,
    machine: Machine,
    /// Tokens of all sequences that run at a time for which there is memory.
    cached_tokens: usize,
}

/// The GGUF file of a directory, relative to it, if it has one.
///
/// # Errors
/// When it has several.
pub(crate) fn file(dir: &Path) -> Result<Option<PathBuf>, LoadError> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| PathBuf::from(entry.file_name()));
    // What is hidden is no model, but for instance what macOS keeps beside one.
    let is_model = |file: &PathBuf| is_gguf(file) && !places::is_hidden(file) && dir.join(file).is_file();
    let mut files: Vec<_> = entries.filter(is_model).collect();
    files.sort();
    match files.as_slice() {
        [] => Ok(None),
        [file] => Ok(Some(file.clone())),
        _ => Err(LoadError::new(dir, format!("has {} GGUF files; a model is a directory with one", files.len()))),
    }
}

/// Whether a file is called as GGUF files are.
#[must_use]
pub fn is_gguf(file: &Path) -> bool {
    file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("gguf"))
}

/// The most bytes of memory that a generator takes beside its weights: for keys and values.
///
/// # Errors
/// When the file says what is not known here.
pub(crate) fn cache_bytes(gguf: &Gguf) -> Result<u64, LoadError> {
    Ok(Config::read(gguf)?.cache_bytes() as u64)
}

/// What a directory's GGUF file says of its model.
///
/// # Errors
/// When the file is not sound, or says what this server does not do.
pub(crate) fn describe(dir: &Path, file: &Path) -> Result<Described, LoadError> {
    let gguf = Gguf::open(&dir.join(file))?;
    let config = Config::read(&gguf)?;
    // What is too long to be read by people says nothing.
    let short = |text: &&str| text.chars().count() <= LONGEST_WORDS;
    let said = |key: &str| gguf.find(key, Value::text).map(|text| text.filter(short).map(str::to_owned));
    let who = said("general.name")?.map_or_else(String::new, |name| format!(" ({name})"));
    let description =
        format!("Goes on from a text{who}; a prompt and what follows it have up to {} tokens.", config.context);
    let lacks = gguf.find(words::IN_GGUF, Value::text)?;
    Ok(Described {
        name: card::name(dir)?,
        task: TASK.into(),
        description: words::with_sentences(&description, lacks),
        license: said("general.license")?.or_else(|| card::license(dir)),
        source: said("general.source.url")?.or(said("general.url")?),
        input_schema: input::input_schema(config.context, Chat::read(&gguf)?.is_some()),
        output_schema: input::output_schema(),
        limits: Limits { timeout_seconds: TIMEOUT_SECONDS, ..Limits::default() },
        files: vec![file.to_owned()],
        example: json!({"prompt": "The", "max_tokens": 1, "temperature": 0}),
    })
}

impl Generator {
    /// Reads the tokenizer and all weights.
    ///
    /// # Errors
    /// When the file says what is not known here, or a tensor is missing, of another shape or not finite.
    pub(crate) fn load(gguf: &Gguf, machine: Machine) -> Result<Self, LoadError> {
        let config = Config::read(gguf)?;
        let tokenizer = Tokenizer::read(gguf)?;
        if tokenizer.size() > config.vocabulary {
            let reason = format!("has {} tokens, but only {} embeddings", tokenizer.size(), config.vocabulary);
            return Err(gguf.wrong(reason));
        }
        let (chat, cached_tokens) = (Chat::read(gguf)?, config.cached_tokens());
        Ok(Self { decoder: Decoder::read(gguf, config, machine)?, tokenizer, chat, machine, cached_tokens })
    }

    /// The first tokens of an input's prompt, at most so many and as the context holds, and whether it has more. What shall follow does
    /// not count.
    ///
    /// # Errors
    /// When it is no input of this model, or its prompt has no tokens.
    pub(crate) fn first_tokens(&self, input: &RawValue, most: usize) -> Result<(Vec<u32>, bool), Failure> {
        let (text, is_whole) = self.beginning(&mut read(input)?)?;
        let mut tokens = self.tokens_of(&text, is_whole)?;
        if tokens.is_empty() {
            return Err(without_tokens());
        }
        let (most, whole) = (most.min(self.decoder.config.context), tokens.len());
        tokens.truncate(most);
        Ok((tokens, whole > most))
    }

    /// What an input's text goes on from, and whether that says all that stands before it.
    fn beginning(&self, input: &mut Input) -> Result<(String, bool), Failure> {
        match (input.beginning()?, &self.chat) {
            (Beginning::Prompt(prompt), _) => Ok((prompt, false)),
            (Beginning::Messages(messages), Some(chat)) => {
                let refused = |reason| invalid(format!("the model's chat template refuses the messages: {reason}"));
                Ok((chat.prompt(&messages).map_err(refused)?, true))
            }
            (Beginning::Messages(_), None) => {
                Err(invalid("the model has no chat template for messages; it takes a prompt"))
            }
        }
    }

    fn tokens_of(&self, text: &str, is_whole: bool) -> Result<Vec<u32>, Failure> {
        let tokens = if is_whole { self.tokenizer.tokens_as_written(text) } else { self.tokenizer.tokens(text) };
        tokens.map_err(|error| {
            tracing::warn!(%error, "a prompt could not be cut into tokens");
            invalid("the prompt cannot be cut into tokens")
        })
    }
}

impl Architecture for Generator {
    type Item = Request;

    fn prepare(&self, input: &RawValue) -> Result<Request, Failure> {
        let mut input = read(input)?;
        let (text, is_whole) = self.beginning(&mut input)?;
        let context = self.decoder.config.context;
        // One that is far too long is not cut into tokens first.
        let least = text.len() / self.tokenizer.longest_piece().saturating_mul(SHRINKAGE).max(1);
        if least >= context {
            return Err(too_long(least, context));
        }
        input.request(self.tokens_of(&text, is_whole)?, context)
    }

    fn cost(&self, request: &Request) -> usize {
        request.tokens()
    }

    fn tokens(&self, request: &Request) -> Option<u32> {
        u32::try_from(request.prompt.len()).ok()
    }

    /// A seed gives the same text again, for which another run would need as long.
    fn may_be_faster_again(&self) -> bool {
        false
    }

    /// Runs these alone, to their ends. What is served joins and leaves between steps instead: see [`turns`].
    fn run(
        &self,
        batch: &[(Request, Abandon)],
        _: &mut Turn<'_>,
    ) -> Result<Vec<Result<Box<RawValue>, Failure>>, Failure> {
        let mut workshop = Workshop::new(self.machine).map_err(|error| failed(&format!("no thread: {error}")))?;
        let mut sequences: Vec<_> =
            batch.iter().map(|(request, _)| Sequence::new(&self.decoder.config, request, Draft::default())).collect();
        loop {
            let running = sequences.iter_mut().zip(batch);
            let running = running.filter(|(sequence, (_, abandon))| !sequence.has_ended() && !abandon.is_abandoned());
            let mut running: Vec<_> = running.map(|(sequence, _)| sequence).collect();
            if running.is_empty() {
                break;
            }
            turns::step(self, &mut running, &mut workshop).map_err(|cause| failed(&cause))?;
        }
        Ok(sequences
            .into_iter()
            .map(|sequence| sequence.outcome().unwrap_or_else(|| Err(engine::canceled())))
            .collect())
    }

    fn start(self: &Arc<Self>, name: &str, max_batch: usize) -> io::Result<mpsc::Sender<Job<Request>>> {
        turns::start(Arc::clone(self), name, max_batch)
    }
}

fn read(input: &RawValue) -> Result<Input, Failure> {
    serde_json::from_str(input.get()).map_err(|error| invalid(error.to_string()))
}

/// The model gave no answer, for a cause that is for the log.
fn failed(cause: &str) -> Failure {
    tracing::error!(cause, "a text generator failed");
    Failure::new(FailureCode::ModelError, "the model failed on this input")
}
