//! A process that is gone when the test process is: a small shell process guards it, starts and ends it on our orders, and ends
//! it and removes its directory when we are gone, even by SIGKILL.

use std::{
    env,
    ffi::OsString,
    fs,
    io::{BufRead, BufReader, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Stdio},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use crate::user::User;

/// What a shell's `wait` answers for a child that it has told of before.
const SHELL_KNOWS_NO_SUCH_CHILD: i32 = 127;

/// What the guard is told goes in here, its answers come out.
struct Line {
    orders: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// A program run by a test, with a temporary directory of its own to run in, started as often as the test likes. Dropping it
/// ends the program and removes the directory; so does the end of the test process, however it comes.
pub struct Process {
    guard: Child,
    line: Arc<Mutex<Option<Line>>>,
    directory: PathBuf,
    /// The program's process id since it was last started.
    id: AtomicU32,
}

impl Process {
    /// Prepares to run `command` without our environment's settings for servers and for augur.
    ///
    /// # Panics
    /// When no temporary directory or shell can be had.
    #[must_use]
    pub fn new(name: &str, command: Vec<OsString>) -> Self {
        Self::guarded(directory(name), None, "KILL", command)
    }

    /// The same, in this directory, as this user, and ended with this signal when it is dropped.
    pub(crate) fn guarded(directory: PathBuf, user: Option<User>, signal: &str, command: Vec<OsString>) -> Self {
        let mut shell = User::command(user, Path::new("sh"));
        shell.args(["-c", include_str!("guard.sh"), "guard.sh"]).arg(&directory).arg(signal).args(command);
        for (name, _) in env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("AUGUR_") || text == "DATABASE_URL" || text == "REDIS_URL" {
                shell.env_remove(name);
            }
        }
        // A terminal's ^C goes to the tests alone (a process group of its own); the guard then sees its input end.
        shell.current_dir(&directory).process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut guard = shell.spawn().expect("a shell can be started");
        let orders = guard.stdin.take().expect("its input is a pipe");
        let answers = BufReader::new(guard.stdout.take().expect("its output is a pipe"));
        Self { guard, line: Arc::new(Mutex::new(Some(Line { orders, answers }))), directory, id: AtomicU32::new(0) }
    }

    /// Starts the program; does not wait for anything.
    pub async fn start(&self) {
        let id = self.order_in_background("start").await;
        self.id.store(id.parse().expect("a process id is a number"), Ordering::Relaxed);
    }

    /// Its resident memory in MiB; none where the system has no `/proc` to tell.
    #[must_use]
    pub fn resident_mib(&self) -> Option<f64> {
        let id = self.id.load(Ordering::Relaxed);
        let status = fs::read_to_string(Path::new("/proc").join(id.to_string()).join("status")).ok()?;
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?;
        kib.trim().parse::<f64>().ok().map(|kib| kib / 1024.0)
    }

    /// Sends the program a signal (`TERM`, `KILL`, …), waits until it has ended, and returns its exit status as a shell
    /// has it (128 + signal when a signal ended it); none when [`Process::is_alive`] had noticed its end before.
    ///
    /// # Panics
    /// When the guard is gone.
    pub async fn end(&self, signal: &str) -> Option<i32> {
        let status = self.order_in_background(&format!("end {signal}")).await.parse().expect("a status is a number");
        (status != SHELL_KNOWS_NO_SUCH_CHILD).then_some(status)
    }

    /// Sends the program a signal.
    ///
    /// # Panics
    /// When the program does not run.
    pub fn signal(&self, signal: &str) {
        let answer = order(&self.line, &format!("signal {signal}"));
        assert_eq!(answer, "sent", "a process must run to be sent {signal}");
    }

    /// Whether the program still runs.
    pub async fn is_alive(&self) -> bool {
        self.order_in_background("alive").await == "yes"
    }

    /// Waits until the program has written a line that begins with `begin` to its standard output since it was last started,
    /// and returns the line's rest.
    ///
    /// # Panics
    /// When the program ends before, or `patience` does; shows what it logged.
    pub async fn line_that_begins(&self, begin: &str, patience: Duration) -> String {
        let begun = Instant::now();
        loop {
            let alive = self.is_alive().await;
            let out = fs::read_to_string(self.directory.join("out")).unwrap_or_default();
            let complete = out.split_inclusive('\n').filter(|line| line.ends_with('\n'));
            if let Some(rest) = complete.filter_map(|line| line.strip_prefix(begin)).next() {
                return rest.trim_end().to_owned();
            }
            assert!(
                alive && begun.elapsed() < patience,
                "no line that begins with {begin:?}; the log:\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// What the program has written: to standard output since it was last started, to standard error ever.
    #[must_use]
    pub fn log(&self) -> String {
        ["out", "log"].map(|file| fs::read_to_string(self.directory.join(file)).unwrap_or_default()).concat()
    }

    async fn order_in_background(&self, text: &str) -> String {
        let (line, text) = (Arc::clone(&self.line), text.to_owned());
        tokio::task::spawn_blocking(move || order(&line, &text)).await.expect("an order does not panic")
    }
}

fn order(line: &Mutex<Option<Line>>, text: &str) -> String {
    let mut line = line.lock().unwrap_or_else(PoisonError::into_inner);
    let line = line.as_mut().expect("the guard is there until it is dropped");
    writeln!(line.orders, "{text}").expect("the guard reads orders");
    let mut answer = String::new();
    line.answers.read_line(&mut answer).expect("the guard answers");
    answer.trim_end().to_owned()
}

impl Drop for Process {
    fn drop(&mut self) {
        // The end of its input is the guard's order to clean up.
        self.line.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Nobody can be told of an error here, and the guard cleans up whether or not it is waited for.
        let _ = self.guard.wait();
    }
}

/// A new temporary directory, for a guard to remove.
pub(crate) fn directory(name: &str) -> PathBuf {
    tempfile::Builder::new().prefix(&format!("{name}-")).tempdir().expect("temporary directories can be made").keep()
}
