//! Under which conditions something was measured: the machine, and how fast its disk syncs.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write as _,
    path::Path,
    thread,
    time::Instant,
};

use crate::{
    numbers::percentile,
    stage::{postgres_version, program},
};

const PAGE: [u8; 8192] = [1; 8192];
const SYNCS: usize = 500;

/// By what they are; for people.
pub(crate) async fn measure() -> BTreeMap<String, String> {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let mut conditions = BTreeMap::from([
        ("processor".to_owned(), after_colon("/proc/cpuinfo", "model name")),
        ("cores".to_owned(), cores.to_string()),
        ("memory".to_owned(), after_colon("/proc/meminfo", "MemTotal")),
        ("kernel".to_owned(), fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()),
        ("fdatasync of 8 KiB".to_owned(), format!("{:.0} µs (median)", fdatasync() * 1e6)),
    ]);
    conditions.insert("postgres".to_owned(), postgres_version().await);
    for (name, program) in [("augur", program("augur")), ("redis", "redis-server".into())] {
        conditions.insert(name.to_owned(), version(&program).await);
    }
    conditions
}

/// The rest of the first line that begins so.
fn after_colon(file: &str, begin: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
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

async fn version(program: &Path) -> String {
    let output = tokio::process::Command::new(program).arg("--version").output().await.expect("it can be started");
    String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned()
}
