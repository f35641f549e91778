//! What an earlier start found out about files of weights: their digests, which take as long as loading them. With them goes what the system
//! said of each file ([`Identity`]); they are worth nothing once it says something else. What is served because of them is checked
//! while it is served ([`Models::look`](crate::Models::look)).
//!
//! A start remembers in a file of its own, and believes what was found out when a model was brought into the directory of models, too, which
//! lies there.

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

use crate::{
    Config, LoadError, digest,
    identity::Identity,
    kept::{Shelf, clear},
};

/// Where what was found out about models that were brought there is remembered, in a directory of models: hidden, so that nobody takes it for one.
const PREPARED: &str = ".prepared/digests.json";

/// Files that were changed more recently are not remembered, unless whoever asks has written them.
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

/// What is remembered; by default nothing.
#[derive(Default)]
pub(crate) struct Remembered {
    own: Known,
    prepared: Known,
    /// Whether files that were changed just now are remembered, too, and nothing is believed.
    is_fresh: bool,
}

/// What is remembered in a file, if there is one.
#[derive(Default)]
struct Known {
    file: Option<PathBuf>,
    entries: Entries,
}

/// A file as it was before it was read.
pub(crate) struct Noted {
    path: PathBuf,
    identity: Identity,
    /// Whether that is long ago enough to be remembered.
    is_settled: bool,
}

/// What a file is said to be by an earlier start.
pub(crate) struct Believed {
    path: PathBuf,
    file: File,
    pub(crate) sha256: String,
    /// What it was a part of.
    pub(crate) version: Version,
    /// Whether that was found out when it was brought.
    is_prepared: bool,
}

/// The file in which what was found out about models that were brought into a directory of models is remembered.
#[must_use]
pub fn prepared(models_dir: &Path) -> PathBuf {
    models_dir.join(PREPARED)
}

/// Has what is remembered in a file of the files in one directory hold for another, to which that was moved since; what was packed of what is
/// no longer there is removed.
///
/// # Errors
/// When it cannot be read or written.
pub fn remember_moved(file: &Path, from: &Path, to: &Path) -> io::Result<()> {
    let to = fs::canonicalize(to)?;
    let moved = |path: PathBuf| path.strip_prefix(from).map(|rest| to.join(rest)).unwrap_or(path);
    let entries = entries(file)?.into_iter().map(|(path, entry)| (moved(path), entry));
    let entries: Entries = entries.filter(|(path, entry)| is_as_it_was(path, entry)).collect();
    clear(&beside(file), &entries.values().map(|entry| &entry.version).collect());
    write(file, &entries)
}

impl Known {
    /// Reads a file: nothing where there is none. One that cannot be read is as good as none.
    fn read(file: Option<PathBuf>) -> Self {
        let entries = file.as_deref().map(|file| {
            entries(file).unwrap_or_else(|error| {
                tracing::warn!(path = %file.display(), %error, "digests of an earlier start cannot be read, and are taken again");
                Entries::new()
            })
        });
        Self { file, entries: entries.unwrap_or_default() }
    }

    /// The directory of packed weights beside the file.
    fn shelves(&self) -> Option<PathBuf> {
        self.file.as_deref().map(beside)
    }
}

impl Remembered {
    /// Reads what is remembered.
    pub(crate) fn read(config: &Config) -> Self {
        let [own, prepared] = [&config.digests, &config.prepared].map(|file| Known::read(file.clone()));
        Self { own, prepared, is_fresh: config.is_fresh }
    }

    /// What is remembered of a file that was noted before it was opened, if it is as it was, then and now.
    pub(crate) fn believe(&self, noted: &Noted) -> Option<Believed> {
        let Noted { path, identity, .. } = noted;
        let of = |known: &Known, is_prepared| {
            let Entry { sha256, version, .. } = known.entries.get(path).filter(|entry| entry.identity == *identity)?;
            let file = File::open(path).ok()?;
            let is_as_it_was = Identity::of(&file.metadata().ok()?) == *identity;
            let (sha256, version) = (sha256.clone(), version.clone());
            is_as_it_was.then(|| Believed { path: path.clone(), file, sha256, version, is_prepared })
        };
        if self.is_fresh { None } else { of(&self.own, false).or_else(|| of(&self.prepared, true)) }
    }

    /// Remembers the digest of a file that was noted before that was taken, and loaded since, unless it was touched meanwhile or shortly before.
    pub(crate) fn keep(&self, noted: Noted, sha256: String, version: Version) {
        let Noted { path, identity, is_settled } = noted;
        let entry = Entry { identity, sha256, version };
        if let Some(file) = &self.own.file
            && (is_settled || self.is_fresh)
            && is_as_it_was(&path, &entry)
        {
            // Where models are brought there may be no place for it yet; if there can be none, writing says so.
            let _ = file.parent().filter(|_| self.is_fresh).map_or(Ok(()), fs::create_dir_all);
            change(file, |entries| drop(entries.insert(path, entry)));
        }
    }

    /// Forgets what turned out to be untrue.
    pub(crate) fn forget(&self, believed: &Believed) {
        let known = if believed.is_prepared { &self.prepared } else { &self.own };
        if let Some(file) = &known.file {
            change(file, |entries| drop(entries.remove(&believed.path)));
        }
    }

    /// The versions that are remembered and there.
    pub(crate) fn versions(&self) -> BTreeSet<&Version> {
        let all = self.own.entries.iter().chain(&self.prepared.entries);
        all.filter(|(path, entry)| is_as_it_was(path, entry)).map(|(_, entry)| &entry.version).collect()
    }

    /// Where packed weights of a version are kept, if anything is remembered, and files can be mapped as that needs. Those that were packed
    /// when it was brought are as good as what was found out then, so they are there for who believes that.
    pub(crate) fn shelf(&self, version: Version, cpu: Cpu, believed: Option<&Believed>) -> Option<Shelf> {
        let is_prepared = believed.is_some_and(|believed| believed.is_prepared);
        let (own, prepared) = (self.shelves(), self.prepared.shelves().filter(|_| is_prepared));
        let is_some = own.is_some() || prepared.is_some();
        (is_some && Kept::is_possible()).then(|| Shelf::new(own, prepared, version, cpu))
    }

    /// The directory of all packed weights that this start keeps.
    pub(crate) fn shelves(&self) -> Option<PathBuf> {
        self.own.shelves()
    }
}

/// Where packed weights are kept beside a file of digests.
fn beside(file: &Path) -> PathBuf {
    let mut directory = file.as_os_str().to_owned();
    directory.push(".packed");
    directory.into()
}

/// Changes what is written down, which others may have changed since it was read, and leaves out what is gone.
fn change(file: &Path, change: impl FnOnce(&mut Entries)) {
    let mut entries = entries(file).unwrap_or_default();
    change(&mut entries);
    entries.retain(|path, entry| is_as_it_was(path, entry));
    if let Err(error) = write(file, &entries) {
        tracing::warn!(path = %file.display(), %error, "cannot be written: the next start will know what it said, and nothing more");
    }
}

impl Noted {
    /// A file as it is now; `None` where there is none, and where its path is no text.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let path = fs::canonicalize(path).ok().filter(|path| path.to_str().is_some())?;
        let identity = Identity::of(&fs::metadata(&path).ok()?);
        Some(Self { path, is_settled: identity.is_older_than(AGE), identity })
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
