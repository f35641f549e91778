//! Names the program that packs weights by what it was made of, so that another one does not take them for its own.

use std::{
    env, fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    path::Path,
};

/// Whatever has a part in how weights are packed.
const SOURCES: [&str; 2] = ["src", "../kernels/src"];

fn main() -> io::Result<()> {
    let mut hasher = DefaultHasher::new();
    for directory in SOURCES {
        println!("cargo::rerun-if-changed={directory}");
        hash(Path::new(directory), &mut hasher)?;
    }
    env::var("TARGET").ok().hash(&mut hasher);
    println!("cargo::rustc-env=AUGUR_PACKED_BY={:016x}", hasher.finish());
    Ok(())
}

/// Takes in all Rust that is in a directory, in the order of names.
fn hash(directory: &Path, hasher: &mut DefaultHasher) -> io::Result<()> {
    let mut paths: Vec<_> =
        fs::read_dir(directory)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.sort();
    for path in paths {
        if path.is_dir() {
            hash(&path, hasher)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") && path.is_file() {
            (&path, fs::read(&path)?).hash(hasher);
        }
    }
    Ok(())
}
