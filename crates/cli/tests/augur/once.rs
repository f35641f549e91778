//! `augur` run to its end.

use std::{
    env,
    future::Future,
    process::Stdio,
    time::{Duration, Instant},
};

use tokio::{io::AsyncWriteExt, process::Command, time::timeout};

/// Far longer than anything here takes, even on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a run left behind.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// A command without our environment's settings.
pub(crate) fn command(arguments: &[&str]) -> Command {
    by(Command::new(env!("CARGO_BIN_EXE_augur")), arguments)
}

/// The same with files of at most so many blocks of 512 bytes: whoever writes more is ended by a signal in the middle of that, as by
/// SIGKILL, or is told that it cannot be, as on a full disk.
pub(crate) fn limited(arguments: &[&str], blocks: u64, is_told: bool) -> Command {
    let mut shell = Command::new("sh");
    let ignored = if is_told { "trap '' XFSZ; " } else { "" };
    let script = format!("{ignored}ulimit -c 0; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    shell.args(["-c", &script, env!("CARGO_BIN_EXE_augur")]);
    by(shell, arguments)
}

fn by(mut command: Command, arguments: &[&str]) -> Command {
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("AUGUR_") || text.starts_with("HF_") || text == "DATABASE_URL" || text == "REDIS_URL" {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs a command to its end, with this on its standard input.
pub(crate) async fn ended(mut command: Command, input: &str) -> Ran {
    let mut child = command.spawn().expect("the program starts");
    let mut stdin = child.stdin.take().expect("its input is a pipe");
    // A program that does not read its input has closed it.
    let _ = stdin.write_all(input.as_bytes()).await;
    drop(stdin);
    let output =
        timeout(PATIENCE, child.wait_with_output()).await.expect("it ends in time").expect("it can be waited for");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it prints text");
    Ran { status: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

/// Runs such a command, which asks a server, until that is told something else than that the store is unavailable, as on a busy
/// machine.
pub(crate) async fn once_stored(command: impl Fn() -> Command) -> Ran {
    until(|| ended(command(), ""), |ran| !ran.err.contains("The database does not answer")).await
}

/// Runs `augur doctor` with these arguments until it finds all to be well, or for a minute: it gives each part of a system a few
/// seconds, and a busy machine may be slower.
pub(crate) async fn well(arguments: &[&str]) -> Ran {
    until(|| augur(arguments), |ran| ran.status == Some(0)).await
}

/// Does it until it ends so, or for a minute; returns the last run.
pub(crate) async fn until<F: Future<Output = Ran>>(mut run: impl FnMut() -> F, is_so: impl Fn(&Ran) -> bool) -> Ran {
    let begun = Instant::now();
    loop {
        let ran = run().await;
        if is_so(&ran) || begun.elapsed() > Duration::from_secs(60) {
            return ran;
        }
    }
}

/// Runs `augur` with these arguments to its end.
pub(crate) async fn augur(arguments: &[&str]) -> Ran {
    ended(command(arguments), "").await
}
