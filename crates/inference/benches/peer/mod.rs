//! Another program in the same contest. It is started with a file or a directory, says its name on a line when it is ready, and then for
//! each line that it is asked does what that says, and answers how many seconds it took.

use std::{
    env,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

/// Has paths in arguments begin at the workspace's root: cargo runs a benchmark in its package's directory.
pub(crate) fn enter_workspace() {
    env::set_current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../..")).expect("the workspace is there");
}

pub(crate) struct Peer {
    pub(crate) name: String,
    program: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    pub(crate) fn start(command: &str, model: &Path) -> Self {
        let mut words = command.split_whitespace();
        let mut program = Command::new(words.next().expect("a command"))
            .args(words)
            .arg(model)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the peer can be started");
        let asks = program.stdin.take().expect("it is piped");
        let answers = BufReader::new(program.stdout.take().expect("it is piped"));
        let mut peer = Self { name: String::new(), program, asks, answers };
        peer.name = peer.line();
        peer
    }

    pub(crate) fn ask(&mut self, what: &str) -> Duration {
        writeln!(self.asks, "{what}").expect("the peer listens");
        Duration::from_secs_f64(self.line().parse().expect("the peer says seconds"))
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the peer speaks");
        line.trim().to_owned()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}
