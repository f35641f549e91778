//! Continuous batching: a model's thread takes one step after the other with all sequences that run, and between two of them
//! sequences join and leave.
//!
//! In a step each sequence that has read its prompt gets its next token, and prompts are read in pieces beside that, so that a
//! long one holds nobody up. Sequences join in the order in which they came, as there is memory for their keys and values.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::Instant,
};

use prediction::Failure;
use tokio::sync::{mpsc, oneshot};

use super::{Generator, input::Request, sequence::Sequence, workshop::Workshop};
use crate::{
    Abandon, Output,
    engine::{Job, canceled},
};

/// Tokens of prompts in one step: enough that reading the weights for them is little work, so few that those who wait for their
/// next token wait little longer.
const PROMPT_TOKENS: usize = 256;

/// Items that wait in the channel; who sends more waits.
const WAITING: usize = 128;

/// One who waits for a sequence that runs.
struct Seat {
    sequence: Sequence,
    abandon: Abandon,
    reply: oneshot::Sender<Result<Output, Failure>>,
    tokens: Option<u32>,
    joined: Instant,
    /// The most sequences that it has shared a step with, itself included.
    company: usize,
}

/// Starts a model's thread; it ends when the last sender is dropped.
///
/// # Errors
/// When the system gives no thread.
pub(super) fn start(generator: Arc<Generator>, name: &str, most: usize) -> io::Result<mpsc::Sender<Job<Request>>> {
    let (sender, receiver) = mpsc::channel(WAITING);
    let workshop = Workshop::new(generator.machine)?;
    let turns = Turns { generator, workshop, seats: Vec::new(), most: most.max(1) };
    thread::Builder::new().name(format!("model {name}")).spawn(move || turns.drive(receiver))?;
    Ok(sender)
}

struct Turns {
    generator: Arc<Generator>,
    workshop: Workshop,
    seats: Vec<Seat>,
    most: usize,
}

impl Turns {
    fn drive(mut self, mut jobs: mpsc::Receiver<Job<Request>>) {
        // The next in line, while there is no memory for it.
        let mut next = None;
        loop {
            while self.seats.len() < self.most {
                let job = match next.take() {
                    Some(job) => Some(job),
                    None if self.seats.is_empty() => match jobs.blocking_recv() {
                        Some(job) => Some(job),
                        None => return,
                    },
                    None => jobs.try_recv().ok(),
                };
                let Some(job) = job else { break };
                if job.abandon.is_abandoned() {
                    // The waiter may be gone, which is as good; and so below.
                    let _ = job.reply.send(Err(canceled()));
                } else if self.has_room(&job.item) {
                    self.join(job);
                } else {
                    next = Some(job);
                    break;
                }
            }
            self.take_turn();
        }
    }

    fn has_room(&self, request: &Request) -> bool {
        let reserved: usize = self.seats.iter().map(|seat| seat.sequence.reserved()).sum();
        self.seats.is_empty() || reserved + request.tokens() <= self.generator.cached_tokens
    }

    fn join(&mut self, job: Job<Request>) {
        let _ = job.begun.send(());
        self.seats.push(Seat {
            sequence: Sequence::new(&self.generator.decoder.config, &job.item, job.draft),
            abandon: job.abandon,
            reply: job.reply,
            tokens: u32::try_from(job.item.prompt.len()).ok(),
            joined: Instant::now(),
            company: 0,
        });
    }

    /// One step for all who are still wanted; answers those who have ended.
    fn take_turn(&mut self) {
        let (wanted, abandoned): (Vec<_>, Vec<_>) = self.seats.drain(..).partition(|seat| !seat.abandon.is_abandoned());
        for seat in abandoned {
            let _ = seat.reply.send(Err(canceled()));
        }
        self.seats = wanted;
        let company = self.seats.len();
        let mut sequences: Vec<_> = self.seats.iter_mut().map(|seat| &mut seat.sequence).collect();
        step_safely(&self.generator, &mut sequences, &mut self.workshop);
        for mut seat in std::mem::take(&mut self.seats) {
            seat.company = seat.company.max(company);
            if seat.sequence.has_ended() { seat.answer() } else { self.seats.push(seat) }
        }
    }
}

impl Seat {
    fn answer(self) {
        let Self { sequence, reply, tokens, joined, company, .. } = self;
        if let Some(outcome) = sequence.outcome() {
            let batch_size = u32::try_from(company).unwrap_or(u32::MAX);
            let _ =
                reply.send(outcome.map(|value| Output { value, predict_time: joined.elapsed(), batch_size, tokens }));
        }
    }
}

/// One step; when it fails, one for each alone, and those for which it does so again fail.
fn step_safely(generator: &Generator, sequences: &mut [&mut Sequence], workshop: &mut Workshop) {
    let mut take_step = |sequences: &mut [&mut Sequence]| {
        let step = AssertUnwindSafe(|| step(generator, sequences, workshop));
        catch_unwind(step).unwrap_or_else(|_| Err("a step panicked".into()))
    };
    let Err(cause) = take_step(sequences) else { return };
    tracing::warn!(sequences = sequences.len(), cause, "a step failed and is split");
    for sequence in sequences {
        // What was computed halfway counts for nothing: a cache has tokens only once all layers have had them.
        if let Err(cause) = take_step(std::slice::from_mut(sequence)) {
            sequence.fail(&cause);
        }
    }
}

/// Takes each sequence that has not ended one step further, some of their prompts perhaps not.
///
/// # Errors
/// When the decoder fails; then no sequence is further than before.
pub(super) fn step(
    generator: &Generator,
    sequences: &mut [&mut Sequence],
    workshop: &mut Workshop,
) -> Result<(), String> {
    let mut room = PROMPT_TOKENS;
    let (mut parts, mut draws) = (Vec::new(), Vec::with_capacity(sequences.len()));
    for sequence in sequences.iter_mut() {
        let part = sequence.next(&mut room);
        draws.push(part.as_ref().is_some_and(|part| part.wants_logits));
        parts.extend(part);
    }
    let logits = generator.decoder.forward(&mut parts, workshop).map_err(|error| error.to_string())?;
    let mut drawing: Vec<_> =
        sequences.iter_mut().zip(draws).filter(|(_, draws)| *draws).map(|(sequence, _)| sequence).zip(logits).collect();
    workshop.share(&mut drawing, |_, (sequence, logits)| sequence.draw(logits, &generator.tokenizer));
    // Once all have drawn, so that those who read along are told of all of them together.
    drawing.iter().for_each(|(sequence, _)| sequence.announce());
    Ok(())
}
