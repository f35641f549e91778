//! How every program starts and ends: settings, logging, signals, and the last word.

use std::{
    env,
    fmt::Display,
    future::Future,
    io::{self, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    process::{self, ExitCode},
    sync::Arc,
};

use tokio::{
    runtime::Runtime,
    signal::unix::{SignalKind, signal},
    sync::Notify,
};
use tokio_util::sync::CancellationToken;

use crate::{Fatal, ParseError, Program, parse};

/// The exit status for a command line, environment or configuration file that is not understood; clap's own.
pub(crate) const NOT_UNDERSTOOD: u8 = 2;

const PANICKED: &str = "a part of this program panicked, which is a bug in it";

/// Runs a program: reads its settings, starts logging, hands over a token that SIGTERM and SIGINT cancel, and says why it
/// ended if it did not end well. A second signal ends it at once.
pub fn run<P, F>(main: impl FnOnce(P, CancellationToken) -> F) -> ExitCode
where
    P: Program,
    F: Future<Output = Result<(), Fatal>>,
{
    let program: P = match parse(env::args_os()) {
        Ok(program) => program,
        Err(ParseError::Arguments(error)) => error.exit(),
        Err(ParseError::File(error)) => return ended(&Fatal::from(error).with_status(NOT_UNDERSTOOD)),
    };
    match start(program, main) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => ended(&fatal),
    }
}

/// Prints one line to standard output. Nobody listening there is no reason to stop.
pub fn say(line: impl Display) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn start<P, F>(program: P, main: impl FnOnce(P, CancellationToken) -> F) -> Result<(), Fatal>
where
    P: Program,
    F: Future<Output = Result<(), Fatal>>,
{
    if let Some(log) = program.log() {
        log.start()?;
    }
    let runtime = Runtime::new()?;
    let running = || {
        runtime.block_on(async {
            let stop = stop_on_signal()?;
            main(program, stop).await
        })
    };
    // What panicked is behind this now, and its message is on standard error.
    let outcome = catch_unwind(AssertUnwindSafe(running)).unwrap_or_else(|_| Err(Fatal::new(PANICKED)));
    // A model that is still being loaded must not hold up the end.
    runtime.shutdown_background();
    outcome
}

fn ended(fatal: &Fatal) -> ExitCode {
    let _ = writeln!(io::stderr(), "error: {fatal}");
    ExitCode::from(fatal.status())
}

/// Tells of every SIGHUP from now on, which no longer ends the process: look again at what may have changed.
///
/// # Errors
/// When the system does not let signals be heard.
pub fn told_on_hangup() -> io::Result<Arc<Notify>> {
    let mut hangups = signal(SignalKind::hangup())?;
    let told = Arc::new(Notify::new());
    let teller = Arc::clone(&told);
    tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            teller.notify_one();
        }
    });
    Ok(told)
}

fn stop_on_signal() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let token = stop.clone();
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => SignalKind::terminate(),
                _ = interrupt.recv() => SignalKind::interrupt(),
            }
        };
        next().await;
        tracing::info!("stopping; a second signal ends at once");
        token.cancel();
        let signal = next().await;
        // 128 + the signal's number is what a shell makes of a death by signal.
        process::exit(128 + signal.as_raw_value());
    });
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tokio::{sync::oneshot, task::JoinSet};

    use super::*;
    use crate::{LogSettings, run_beside};

    #[derive(Parser)]
    struct Bare {}

    impl Program for Bare {
        fn log(&self) -> Option<&LogSettings> {
            None
        }
    }

    #[test]
    fn a_program_a_part_of_which_panics_ends_with_an_error_whatever_still_blocks() {
        let (unblock, blocked) = oneshot::channel::<()>();
        let ended = start(Bare {}, async |_, stop| {
            let mut parts = JoinSet::new();
            parts.spawn_blocking(move || drop(blocked.blocking_recv()));
            parts.spawn(async { panic!("as the test wants it") });
            run_beside(&mut parts, &stop, stop.cancelled()).await;
            Ok(())
        });
        assert_eq!(ended.expect_err("it panicked").to_string(), PANICKED);
        drop(unblock);
    }
}
