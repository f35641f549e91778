//! Where the servers' programs are on this machine.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

/// The directory that holds `initdb` and `postgres`.
///
/// # Panics
/// When there is none; says what to install.
pub(crate) fn postgres() -> PathBuf {
    let named = env::var_os("AUGUR_TEST_POSTGRES_BIN").map(PathBuf::from);
    let found = named
        .into_iter()
        .chain(path())
        .chain(debian_postgres())
        .find(|directory| ["initdb", "postgres"].into_iter().all(|program| directory.join(program).is_file()));
    found.expect(
        "Postgres' `initdb` and `postgres` must be installed (Debian: apt-get install postgresql), or their directory be \
         named by AUGUR_TEST_POSTGRES_BIN; `scripts/test` installs them where it may",
    )
}

/// The `redis-server` program.
///
/// # Panics
/// When there is none; says what to install.
pub(crate) fn redis() -> PathBuf {
    path().into_iter().map(|directory| directory.join("redis-server")).find(|program| program.is_file()).expect(
        "`redis-server` must be installed (Debian: apt-get install redis-server); `scripts/test` installs it where it may",
    )
}

fn path() -> Vec<PathBuf> {
    env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect()
}

/// Debian keeps servers out of PATH, one directory per major version; the newest comes first.
fn debian_postgres() -> Vec<PathBuf> {
    let Ok(versions) = fs::read_dir("/usr/lib/postgresql") else { return Vec::new() };
    let mut found: Vec<PathBuf> = versions.flatten().map(|version| version.path()).collect();
    found.sort_by_key(|version| std::cmp::Reverse(major(version)));
    found.into_iter().map(|version| version.join("bin")).collect()
}

fn major(version: &Path) -> u32 {
    version.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok()).unwrap_or(0)
}
