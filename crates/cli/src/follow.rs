//! Following a prediction: its text is printed as it is written, once, however often the connection breaks.

use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use prediction::Failure;
use reqwest::Response;
use serde::Deserialize;
use tokio::{
    io::{AsyncWriteExt as _, Stdout},
    time::{sleep, timeout},
};

use crate::{
    client::{Client, ClientError, RETRY},
    events::Events,
};

/// How long nothing may come: three times as long as the API is ever silent.
const SILENCE: Duration = Duration::from_secs(45);

/// How what was followed ended.
pub(crate) enum End {
    /// All of it is printed.
    Whole,
    /// What is printed is not the whole, for this reason where there is one.
    Broken(Option<Failure>),
}

/// What the last event says.
#[derive(Deserialize)]
struct Done {
    reason: Option<String>,
}

/// Standard output, as the text goes there.
pub(crate) struct Printed {
    out: Stdout,
    is_terminal: bool,
    has_begun: bool,
}

impl Printed {
    /// Nothing yet.
    pub(crate) fn new() -> Self {
        Self { out: tokio::io::stdout(), is_terminal: io::stdout().is_terminal(), has_begun: false }
    }

    /// Prints what comes next; it is there to be read when this returns. Nobody listening is no reason to stop.
    async fn print(&mut self, text: &str) {
        self.has_begun = true;
        let _ = if self.is_terminal { self.write(&tamed(text)).await } else { self.write(text).await };
    }

    /// Ends the line in which the text ends, if there is one.
    pub(crate) async fn end(&mut self) {
        if self.has_begun {
            let _ = self.write("\n").await;
        }
    }

    async fn write(&mut self, text: &str) -> io::Result<()> {
        self.out.write_all(text.as_bytes()).await?;
        self.out.flush().await
    }
}

/// The text without what would give orders to a terminal.
fn tamed(text: &str) -> String {
    let gives_orders = |character: char| character.is_control() && !matches!(character, '\n' | '\t');
    text.replace(gives_orders, "\u{FFFD}")
}

/// Prints what a prediction writes until its end. It was accepted, so it is kept: a server that is away is asked again, for what
/// comes after what was printed.
pub(crate) async fn follow(client: &Client, id: &str, printed: &mut Printed) -> Result<End, ClientError> {
    let mut last = None;
    loop {
        let pause = match client.stream(id, last.as_deref()).await {
            Ok(response) => match read(response, &mut last, printed).await {
                Some(end) => return Ok(end),
                None => RETRY,
            },
            Err(error) if error.is_passing() => error.retry_after().unwrap_or(RETRY),
            Err(error) => return Err(error),
        };
        sleep(pause).await;
    }
}

/// Prints what comes on one connection; the end, unless the connection ends first. `last`: the id of the last event read.
async fn read(mut response: Response, last: &mut Option<String>, printed: &mut Printed) -> Option<End> {
    let (mut events, mut failure) = (Events::default(), None);
    while let Ok(Ok(Some(chunk))) = timeout(SILENCE, response.chunk()).await {
        for event in events.read(&chunk) {
            let data = event.data.unwrap_or_default();
            match event.name.as_str() {
                "output" => printed.print(&data).await,
                "error" => failure = serde_json::from_str(&data).ok(),
                "done" => {
                    let is_whole = serde_json::from_str(&data).is_ok_and(|done: Done| done.reason.is_none());
                    if !is_whole {
                        return Some(End::Broken(failure));
                    }
                    // Also an empty text has a line.
                    printed.print("").await;
                    return Some(End::Whole);
                }
                _ => {}
            }
            *last = event.id.or_else(|| last.take());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminals_get_no_orders() {
        assert_eq!(tamed("a\tb\n\u{f6} \u{1F6A2}"), "a\tb\n\u{f6} \u{1F6A2}");
        assert_eq!(tamed("\u{1b}[2J\u{7}\u{9b}\r\u{7f}"), "\u{FFFD}[2J\u{FFFD}\u{FFFD}\u{FFFD}\u{FFFD}");
    }
}
