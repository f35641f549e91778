//! Under which conditions something was measured: the machine, how fast its disk syncs, and how the servers are set.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    path::Path,
    thread,
    time::Instant,
};

use crate::{numbers::percentile, program::program, servers::Servers};

const PAGE: [u8; 8192] = [1; 8192];
const SYNCS: usize = 500;
/// The sources as they are now, from which `cargo run` builds the programs.
const SOURCE: &str = env!("CARGO_MANIFEST_DIR");

/// By what they are; for people.
pub(crate) async fn measure() -> BTreeMap<String, String> {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let mut conditions = BTreeMap::from([
        ("processor".to_owned(), after_colon("/proc/cpuinfo", "model name")),
        ("cores".to_owned(), cores.to_string()),
        ("memory".to_owned(), after_colon("/proc/meminfo", "MemTotal")),
        ("kernel".to_owned(), read("/proc/sys/kernel/osrelease").trim().to_owned()),
        (
            "load before (1, 5, 15 minutes)".to_owned(),
            read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
        ),
        ("fdatasync of 8 KiB".to_owned(), format!("{:.0} µs (median)", fdatasync() * 1e6)),
        ("file system of the servers".to_owned(), said("stat", &["--file-system", "--format=%T", &temporary()]).await),
        ("augur".to_owned(), said(program("augur"), &["--version"]).await),
        (
            "commit of the sources".to_owned(),
            said("git", &["-C", SOURCE, "describe", "--always", "--dirty", "--abbrev=12"]).await,
        ),
    ]);
    conditions.extend(Servers::start().await.stated().await);
    conditions
}

fn read(file: &str) -> String {
    fs::read_to_string(file).unwrap_or_default()
}

/// The rest of the first line that begins so.
fn after_colon(file: &str, begin: &str) -> String {
    let text = read(file);
    let line = text.lines().find_map(|line| line.strip_prefix(begin)?.split_once(':'));
    line.map_or_else(|| "unknown".to_owned(), |(_, value)| value.trim().to_owned())
}

/// Where the servers keep their data too, in seconds.
fn fdatasync() -> f64 {
    let directory = tempfile::tempdir().expect("temporary directories can be made");
    let mut file = File::create(directory.path().join("synced")).expect("a file can be made");
    let mut once = || {
        let begun = Instant::now();
        file.write_all(&PAGE).and_then(|()| file.sync_data()).expect("the disk takes it");
        begun.elapsed().as_secs_f64()
    };
    let seconds: Vec<f64> = (0..SYNCS).map(|_| once()).collect();
    percentile(&seconds, 0.5)
}

fn temporary() -> String {
    std::env::temp_dir().to_string_lossy().into_owned()
}

/// What a program prints, if it can be started.
async fn said(program: impl AsRef<Path>, arguments: &[&str]) -> String {
    let output = tokio::process::Command::new(program.as_ref()).args(arguments).output().await;
    let said = output.ok().filter(|output| output.status.success()).map(|output| output.stdout).unwrap_or_default();
    match String::from_utf8_lossy(&said).trim() {
        "" => "unknown".to_owned(),
        said => said.to_owned(),
    }
}
