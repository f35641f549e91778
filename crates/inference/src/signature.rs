//! Whether a directory has changed, told without reading its files.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::identity::Identity;

/// Directories within a model's directory are looked into, but not those within these: no model has more.
const DEPTH: usize = 2;

/// What the system says of a directory's files: another one when a file is written, replaced, added or taken away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signature(Vec<(PathBuf, Identity)>);

impl Signature {
    /// That of a directory as it is now. Links are followed; what is hidden or cannot be looked at does not count.
    pub(crate) fn of(dir: &Path) -> Self {
        let mut files = Vec::new();
        add(dir, DEPTH, &mut files);
        files.sort();
        Self(files)
    }
}

fn add(dir: &Path, depth: usize, files: &mut Vec<(PathBuf, Identity)>) {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with('.')) {
        let path = entry.path();
        match fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() && depth > 1 => add(&path, depth - 1, files),
            Ok(metadata) if metadata.is_file() => files.push((path, Identity::of(&metadata))),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_change_of_a_file_shows() {
        let home = tempfile::tempdir().expect("a directory");
        let (dir, file) = (home.path(), home.path().join("inner/config.json"));
        fs::create_dir(dir.join("inner")).expect("a directory");
        let mut before = Signature::of(dir);
        let mut changes = |change: &dyn Fn()| {
            change();
            let now = Signature::of(dir);
            assert_eq!(now, Signature::of(dir), "nothing happened between two looks");
            std::mem::replace(&mut before, now.clone()) != now
        };
        assert!(changes(&|| fs::write(&file, "one").expect("writes")));
        assert!(changes(&|| fs::write(&file, "longer").expect("writes")));
        // The same size and time, as a copy that keeps times has them.
        assert!(changes(&|| {
            let (copy, written) =
                (dir.join(".copy"), fs::metadata(&file).expect("is there").modified().expect("a time"));
            fs::write(&copy, "shorts").expect("writes");
            fs::File::options().write(true).open(&copy).expect("opens").set_modified(written).expect("sets");
            fs::rename(&copy, &file).expect("replaces");
        }));
        assert!(!changes(&|| fs::write(dir.join(".hidden"), "").expect("writes")));
        assert!(changes(&|| fs::remove_file(&file).expect("removes")));
    }
}
