//! Another program that generates texts. It is started with a GGUF file, says its name on a line when it is ready, and then for each line
//! `SEQUENCES PROMPT TOKENS` lets so many sequences go on from prompts of so many tokens by so many more, the likeliest each time, and says
//! how many seconds it took.

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

pub(crate) struct Peer {
    pub(crate) name: String,
    program: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Peer {
    pub(crate) fn start(command: &str, file: &Path) -> Self {
        let mut words = command.split_whitespace();
        let mut program = Command::new(words.next().expect("a command"))
            .args(words)
            .arg(file)
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

    pub(crate) fn run(&mut self, sequences: usize, prompt: usize, tokens: usize) -> Duration {
        writeln!(self.asks, "{sequences} {prompt} {tokens}").expect("the peer listens");
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
