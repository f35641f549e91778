//! Telling one client what a prediction writes and how it ends: never a text twice, never one that another run has not confirmed.

use std::{future, sync::Arc, time::Duration};

use axum::body::Bytes;
use prediction::{Failure, FailureCode, Prediction, PredictionId, Status};
use queue::Piece;
use serde::Deserialize;
use store::Waiting;
use tokio::{sync::mpsc, time::sleep};

use super::{
    event::{COMMENT, event, with_line_feeds},
    mark::Mark,
};
use crate::api::Api;

/// How long nothing is said at most: shorter than what proxies take for a connection that is dead.
const SILENCE: Duration = Duration::from_secs(15);
/// The most bytes of one event's text.
const LONGEST_TEXT: usize = 16 << 10;

/// The stream is over: the client is gone, or has been told all.
pub(super) struct Over;

/// What a client has been told.
pub(super) struct Telling {
    told: Mark,
    /// The text that is compared with what was told, and then told: how far it was read.
    source: Mark,
    /// Whether what was read of it ends in a carriage return.
    after_return: bool,
    epoch: i32,
    attempt: u32,
    writes_text: bool,
    events: mpsc::Sender<Bytes>,
}

/// One client's stream on its way.
pub(super) struct Following {
    pub(super) api: Arc<Api>,
    pub(super) id: PredictionId,
    pub(super) telling: Telling,
    /// Since before the prediction was looked at.
    pub(super) waiting: Waiting,
}

/// Of a generator's output, what it wrote.
#[derive(Deserialize)]
struct Written {
    text: String,
}

impl Following {
    /// Tells what comes until the prediction is finished, the client gone, or the server stopped. `prediction`: as it was found.
    pub(super) async fn follow(mut self, prediction: Prediction) {
        // Over is over, however it came to be.
        let _ = self.run(prediction).await;
    }

    async fn run(&mut self, prediction: Prediction) -> Result<(), Over> {
        if prediction.status.is_terminal() {
            return self.telling.end(&prediction).await;
        }
        let mut reader = self.telling.writes_text.then(|| self.api.queue.read(self.id));
        loop {
            let piece = async {
                match &mut reader {
                    Some(reader) => reader.next().await,
                    None => future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = self.api.stop.cancelled() => return Err(Over),
                () = self.telling.events.closed() => return Err(Over),
                ended = self.waiting.woken() => match ended {
                    Some(ended) => return self.telling.end(&ended.of(prediction)).await,
                    None => match self.api.find_any(self.id).await {
                        Ok(Some(found)) if found.status.is_terminal() => return self.telling.end(&found).await,
                        Ok(Some(_)) => {}
                        Ok(None) => return self.telling.fail(&gone()).await,
                        // The waiters' next look wakes us again.
                        Err(_) => {}
                    },
                },
                piece = piece => self.telling.piece(&piece).await?,
                () = sleep(SILENCE) => self.telling.send(COMMENT).await?,
            }
        }
    }
}

impl Telling {
    pub(super) fn new(told: Mark, attempt: u32, writes_text: bool, events: mpsc::Sender<Bytes>) -> Self {
        let source = Mark::default();
        Self { told, source, after_return: false, epoch: 0, attempt: attempt.max(1), writes_text, events }
    }

    /// Tells what a run has written; pieces of one run come in order and without gaps.
    async fn piece(&mut self, piece: &Piece) -> Result<(), Over> {
        if piece.from == 0 {
            self.begin_again();
            if self.epoch != 0 && self.epoch != piece.epoch {
                self.attempt += 1;
            }
            self.epoch = piece.epoch;
        }
        self.text(&piece.text).await
    }

    /// Tells the rest, and how it ended.
    async fn end(&mut self, prediction: &Prediction) -> Result<(), Over> {
        self.attempt = prediction.attempt.max(1);
        match (prediction.status, &prediction.failure) {
            (Status::Canceled, _) => self.done(r#"{"reason":"canceled"}"#).await,
            (_, Some(failure)) => self.fail(failure).await,
            (_, None) => {
                if let Some(output) = &prediction.output {
                    self.output(output.get()).await?;
                }
                self.done("{}").await
            }
        }
    }

    async fn output(&mut self, output: &str) -> Result<(), Over> {
        let text = self.writes_text.then(|| serde_json::from_str::<Written>(output).ok()).flatten();
        let Some(Written { text }) = text else {
            return self.whole(output).await;
        };
        self.begin_again();
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (part, after) = rest.split_at(rest.floor_char_boundary(LONGEST_TEXT));
            self.text(part).await?;
            rest = after;
        }
        if self.source.bytes < self.told.bytes { self.fail(&differs()).await } else { Ok(()) }
    }

    /// Tells an output that is no text, in one event: to everyone but those who have read that very event.
    async fn whole(&mut self, output: &str) -> Result<(), Over> {
        let mut end = Mark::default();
        end.read(output);
        if self.told == end {
            return Ok(());
        }
        if self.writes_text && self.told != Mark::default() {
            return self.fail(&differs()).await;
        }
        self.told = end;
        self.send(event("output", &end.id(self.attempt), &with_line_feeds(output, false))).await
    }

    /// Another text is read from its beginning.
    fn begin_again(&mut self) {
        (self.source, self.after_return) = (Mark::default(), false);
    }

    /// Reads on in the text: what was told already must be the same, what comes after is told.
    async fn text(&mut self, text: &str) -> Result<(), Over> {
        let known = usize::try_from(self.told.bytes - self.source.bytes).unwrap_or(usize::MAX).min(text.len());
        // What was told ends between characters, as this text's do if it is the same.
        let Some((known, new)) = text.split_at_checked(known) else { return self.fail(&differs()).await };
        self.read(known);
        if self.source.bytes == self.told.bytes && self.source != self.told {
            return self.fail(&differs()).await;
        }
        if new.is_empty() {
            return Ok(());
        }
        let data = with_line_feeds(new, self.after_return).into_owned();
        self.read(new);
        self.told = self.source;
        // A line feed that ends a line which was told to have ended says nothing.
        if data.is_empty() { Ok(()) } else { self.send(event("output", &self.told.id(self.attempt), &data)).await }
    }

    fn read(&mut self, text: &str) {
        self.source.read(text);
        if !text.is_empty() {
            self.after_return = text.ends_with('\r');
        }
    }

    /// Tells of a failure, and that this is the end.
    async fn fail(&mut self, failure: &Failure) -> Result<(), Over> {
        let data = serde_json::to_string(failure).unwrap_or_default();
        self.send(event("error", &self.told.id(self.attempt), &data)).await?;
        self.done(r#"{"reason":"error"}"#).await
    }

    async fn done(&mut self, data: &str) -> Result<(), Over> {
        self.send(event("done", &self.told.id(self.attempt), data)).await?;
        Err(Over)
    }

    async fn send(&self, event: Bytes) -> Result<(), Over> {
        // It is closed when the client is gone, or has not read on for too long.
        self.events.send(event).await.map_err(|_| Over)
    }
}

fn gone() -> Failure {
    Failure::new(FailureCode::Internal, "the prediction's record was removed")
}

/// Runs of one prediction write one text, but on machines that compute differently.
fn differs() -> Failure {
    let message = "the text is another than what was told of it before: read the prediction's output";
    Failure::new(FailureCode::Internal, message).with_retryable(false)
}

#[cfg(test)]
mod tests;
