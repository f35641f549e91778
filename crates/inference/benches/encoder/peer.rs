//! Another program in the same contest. It is started with the model's directory, says its name on a line when it is ready, and
//! then for each line `COUNT TOKENS;TOKENS…` (ids with commas between them) runs that batch so often and says how many seconds it took.

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
    pub(crate) fn start(command: &str, dir: &Path) -> Self {
        let mut words = command.split_whitespace();
        let mut program = Command::new(words.next().expect("a command"))
            .args(words)
            .arg(dir)
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

    pub(crate) fn run(&mut self, texts: &[Vec<u32>], count: u32) -> Duration {
        let text = |ids: &Vec<u32>| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
        let texts: Vec<String> = texts.iter().map(text).collect();
        writeln!(self.asks, "{count} {}", texts.join(";")).expect("the peer listens");
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
