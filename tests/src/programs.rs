//! The programs under test, as cargo built them.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The path of `augur`, `augur-api` or `augur-worker`, in the directory that cargo builds into. `scripts/test` has built
/// them; when one is missing they are built here, once.
///
/// # Panics
/// When there is no such program or it does not build.
#[must_use]
pub fn program(name: &str) -> PathBuf {
    static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
    let directory = DIRECTORY.get_or_init(|| {
        // A test's own path is <target>/<profile>/deps/<name>-<hash>.
        let ourselves = env::current_exe().expect("our own path");
        let directory = ourselves.parent().and_then(Path::parent).expect("a profile's directory").to_owned();
        if !["augur", "augur-api", "augur-worker"].into_iter().all(|name| directory.join(name).is_file()) {
            build(&directory);
        }
        directory
    });
    let path = directory.join(name);
    assert!(path.is_file(), "{name} is none of our programs");
    path
}

fn build(directory: &Path) {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    // The same selection as in `scripts/test`: the same features, hence nothing compiled twice.
    command.args(["build", "--workspace", "--bins", "--tests"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    if directory.ends_with("release") {
        command.arg("--release");
    }
    assert!(command.status().expect("cargo can be started").success(), "the programs do not build");
}
