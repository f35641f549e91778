//! A program under test: a process of its own, gone when this process is.

use std::{
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// Longer than any program takes to start.
const PATIENCE: Duration = Duration::from_secs(120);

/// The packages whose programs are measured.
const PACKAGES: [&str; 3] = ["api", "worker", "cli"];

/// Under `cargo run`, which builds this program alone, builds those that are measured: none is measured as it was before.
///
/// # Panics
/// When they cannot be built, and when this is no release program, because then they are none either.
pub(crate) async fn build() {
    if cfg!(debug_assertions) {
        panic!("only release programs are measured: cargo run --release -p bench");
    }
    let Some(cargo) = std::env::var_os("CARGO") else { return };
    let mut build = Command::new(cargo);
    build.args(["build", "--release", "--locked", "--manifest-path"]);
    build.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    build.args(PACKAGES.iter().flat_map(|package| ["--package", package]));
    let built = build.status().await.expect("cargo can be started");
    assert!(built.success(), "the programs cannot be built");
}

/// The programs lie beside this one.
///
/// # Panics
/// When they do not; says how they get there.
pub(crate) fn program(name: &str) -> PathBuf {
    let ourselves = std::env::current_exe().expect("our own path");
    let path = ourselves.parent().expect("a directory").join(name);
    assert!(path.is_file(), "{} is missing: cargo build --release -p bench -p api -p worker -p cli", path.display());
    path
}

/// A command that has none of our settings.
pub(crate) fn without_settings(path: &Path) -> Command {
    let mut command = Command::new(path);
    for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AUGUR_")) {
        command.env_remove(variable);
    }
    command.env_remove("DATABASE_URL").env_remove("REDIS_URL");
    command
}

/// A program that ends with this value.
pub(crate) struct Program {
    child: Child,
    /// Read no further, but open: a program may not be able to go on without.
    _output: Lines<BufReader<ChildStdout>>,
    _log: TempDir,
}

impl Program {
    /// Starts it without our settings, and waits until it prints a line that begins so.
    pub(crate) async fn start(
        path: &Path,
        arguments: impl IntoIterator<Item = OsString>,
        environment: &[(&str, &OsStr)],
        ready: &str,
    ) -> Self {
        let log = tempfile::tempdir().expect("temporary directories can be made");
        let stderr = std::fs::File::create(log.path().join("log")).expect("a file can be made");
        let mut command = without_settings(path);
        command.envs(environment.iter().copied()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).kill_on_drop(true);
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut lines = BufReader::new(child.stdout.take().expect("its output is a pipe")).lines();
        let wait = async {
            while let Ok(Some(line)) = lines.next_line().await {
                if line.starts_with(ready) {
                    return true;
                }
            }
            false
        };
        let is_ready = timeout(PATIENCE, wait).await == Ok(true);
        let said = || std::fs::read_to_string(log.path().join("log")).unwrap_or_default();
        assert!(is_ready, "{} does not get ready: {}", path.display(), said());
        Self { child, _output: lines, _log: log }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// Its resident memory in MiB.
    pub(crate) fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(Path::new("/proc").join(self.id().to_string()).join("status"));
        let status = status.expect("the memory of a process can be read");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its resident memory");
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse().expect("a number");
        kib / 1024.0
    }

    /// SIGTERM; returns once it has ended.
    pub(crate) async fn end(mut self) {
        let sent = Command::new("kill").arg(self.id().to_string()).status().await.expect("kill can be started");
        assert!(sent.success(), "a program runs until it is ended");
        self.child.wait().await.expect("it ends");
    }

    /// SIGKILL.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("it runs");
    }
}
