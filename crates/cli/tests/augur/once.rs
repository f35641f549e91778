//! `augur` run to its end.

use std::{env, process::Stdio, time::Duration};

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

/// Runs `augur` with these arguments to its end.
pub(crate) async fn augur(arguments: &[&str]) -> Ran {
    ended(command(arguments), "").await
}
