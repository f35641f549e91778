//! What an earlier start found out about files of weights: their digests, which take as long as loading them. With them goes what the system
//! said of each file ([`Identity`]); they are worth nothing once it says something else. What is served because of them is checked
//! while it is served ([`Models::look`](crate::Models::look)).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use kernels::{Cpu, Kept};
use prediction::Version;
use serde::{Deserialize, Serialize};

use crate::{LoadError, digest, identity::Identity, kept::Shelf};

/// Files that were changed more recently are not remembered.
const AGE: Duration = Duration::from_secs(5);

/// The longest file of them that is read, in bytes: thousands of models' have a hundredth.
const MOST: u64 = 16 << 20;

/// A file of weights that was loaded, as a part of a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    identity: Identity,
    sha256: String,
    version: Version,
}

/// By the file's path, from the root.
type Entries = BTreeMap<PathBuf, Entry>;

/// What is remembered, in a file if there is one; by default nothing.
#[derive(Default)]
pub(crate) struct Remembered {
    file: Option<PathBuf>,
    entries: Entries,
}

/// A file as it was before it was read.
pub(crate) struct Noted {
    path: PathBuf,
    identity: Identity,
}

/// What a file is said to be by an earlier start.
pub(crate) struct Believed {
    path: PathBuf,
    file: File,
    pub(crate) sha256: String,
    /// What it was a part of.
    pub(crate) version: Version,
}

impl Remembered {
    /// Reads what is remembered in this file: nothing where there is none. One that cannot be read is as good as none.
    pub(crate) fn read(file: Option<&Path>) -> Self {
        let entries = file.map(|file| {
            entries(file).unwrap_or_else(|error| {
                tracing::warn!(path = %file.display(), %error, "digests of an earlier start cannot be read, and are taken again");
                Entries::new()
            })
        });
        Self { file: file.map(Path::to_owned), entries: entries.unwrap_or_default() }
    }

    /// What is remembered of a file that was noted before it was opened, if it is as it was, then and now.
    pub(crate) fn believe(&self, noted: &Noted) -> Option<Believed> {
        let Noted { path, identity } = noted;
        let Entry { sha256, version, .. } = self.entries.get(path).filter(|entry| entry.identity == *identity)?;
        let file = File::open(path).ok()?;
        let is_as_it_was = Identity::of(&file.metadata().ok()?) == *identity;
        let believed = || Believed { path: path.clone(), file, sha256: sha256.clone(), version: version.clone() };
        is_as_it_was.then(believed)
    }

    /// Remembers the digest of a file that was noted before that was taken, and loaded since, unless it was touched meanwhile.
    pub(crate) fn keep(&self, noted: Noted, sha256: String, version: Version) {
        let Noted { path, identity } = noted;
        if Noted::of(&path).is_some_and(|now| now.identity == identity) {
            self.change(|entries| drop(entries.insert(path, Entry { identity, sha256, version })));
        }
    }

    /// Forgets what turned out to be untrue.
    pub(crate) fn forget(&self, believed: &Believed) {
        self.change(|entries| drop(entries.remove(&believed.path)));
    }

    /// The versions that are remembered and there.
    pub(crate) fn versions(&self) -> BTreeSet<&Version> {
        let there = self.entries.iter().filter(|(path, entry)| is_as_it_was(path, entry));
        there.map(|(_, entry)| &entry.version).collect()
    }

    /// Where packed weights of a version are kept, if anything is remembered, and files can be mapped as that needs.
    pub(crate) fn shelf(&self, version: Version, cpu: Cpu) -> Option<Shelf> {
        self.shelves().filter(|_| Kept::is_possible()).map(|directory| Shelf::new(directory, version, cpu))
    }

    /// The directory of all packed weights, beside the file.
    pub(crate) fn shelves(&self) -> Option<PathBuf> {
        let mut directory = self.file.clone()?.into_os_string();
        directory.push(".packed");
        Some(directory.into())
    }

    /// Changes what is written down, which others may have changed since it was read, and leaves out what is gone.
    fn change(&self, change: impl FnOnce(&mut Entries)) {
        let Some(file) = &self.file else { return };
        let mut entries = entries(file).unwrap_or_default();
        change(&mut entries);
        entries.retain(|path, entry| is_as_it_was(path, entry));
        if let Err(error) = write(file, &entries) {
            tracing::warn!(path = %file.display(), %error, "digests are not remembered for the next start");
        }
    }
}

impl Noted {
    /// A file as it is now; `None` where there is none, where it was touched just now, and where its path is no text.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let path = fs::canonicalize(path).ok().filter(|path| path.to_str().is_some())?;
        let identity = Identity::of(&fs::metadata(&path).ok()?);
        identity.is_older_than(AGE).then_some(Self { path, identity })
    }
}

impl Believed {
    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is so: the file, which is read for it, has this digest, whatever lies at its path by now.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn is_so(&self) -> Result<bool, LoadError> {
        Ok(digest::of(&self.file, &self.path)? == self.sha256)
    }
}

fn is_as_it_was(path: &Path, entry: &Entry) -> bool {
    Noted::of(path).is_some_and(|noted| noted.identity == entry.identity)
}

fn entries(file: &Path) -> io::Result<Entries> {
    match fs::metadata(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Entries::new()),
        Err(error) => Err(error),
        Ok(metadata) if !metadata.is_file() => Err(io::Error::other("no regular file")),
        Ok(metadata) if metadata.len() > MOST => Err(io::ErrorKind::FileTooLarge.into()),
        Ok(_) => Ok(serde_json::from_slice(&fs::read(file)?)?),
    }
}

/// Whole or not at all, whoever else does the same: of two, the last.
fn write(file: &Path, entries: &Entries) -> io::Result<()> {
    let file = match fs::canonicalize(file) {
        Ok(file) if file.is_file() => file,
        Ok(_) => return Err(io::Error::other("no regular file")),
        Err(_) => file.to_owned(),
    };
    let beside = file.with_extension(format!("{:016x}", rand::random::<u64>()));
    let written = File::create_new(&beside).and_then(|mut opened| {
        opened.write_all(&serde_json::to_vec_pretty(entries)?)?;
        fs::rename(&beside, &file)
    });
    written.inspect_err(|_| drop(fs::remove_file(&beside)))
}
