//! How a model comes into the directory of models: whole or not at all, in one rename, and only when it has run. What that found out and
//! packed is kept there for servers, whose first start with it takes hardly longer than the next ones.

use std::{
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process,
};

use inference::{Config, LoadError, Look, Machine, Models, prepared, remember_moved};
use prediction::ModelSpec;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use settings::Fatal;

use tokio::task::spawn_blocking;

use super::slot::Slot;

/// A model on its way: its files are gathered in a hidden directory of the directory of models, on the same file system.
pub(crate) struct Staged {
    slot: Slot,
    /// Hidden, so that nobody takes what is in it for a model.
    pub(crate) home: PathBuf,
    /// The model's directory in it, called as it will be: its name may come from that.
    pub(crate) dir: PathBuf,
    target: PathBuf,
    /// Where what was found out is remembered.
    prepared: PathBuf,
    /// Whether what was gathered stays for another attempt.
    is_kept: bool,
    /// Held as long as somebody gathers.
    _lock: File,
}

impl Staged {
    /// Makes a directory that is gone when this is. What others left of the same when they were ended before their time is removed
    /// first. `purpose` keeps different ones apart.
    ///
    /// # Errors
    /// When it cannot be made, and when another process, one of the same number in another container, is at work in it.
    pub(crate) fn once(models_dir: &Path, slot: &Slot, purpose: &str) -> Result<Self, Fatal> {
        remove_left_over(models_dir, slot, purpose);
        let mut staged = Self::kept(models_dir, slot, &format!("{purpose}-{}", process::id()))?;
        staged.is_kept = false;
        Ok(staged)
    }

    /// Makes the directory, or finds the one that an earlier attempt left; what is in it stays for another.
    ///
    /// # Errors
    /// When it cannot be made, and when another process is at work in it.
    pub(crate) fn kept(models_dir: &Path, slot: &Slot, purpose: &str) -> Result<Self, Fatal> {
        let home = models_dir.join(format!(".{purpose}-{}", in_a_name(slot)));
        let dir = slot.place(&home);
        let cannot = |error| Fatal::new(format!("{} cannot be made: {error}", dir.display()));
        let lock = loop {
            fs::create_dir_all(&dir).map_err(cannot)?;
            let lock = File::create(home.join(LOCK)).map_err(cannot)?;
            match lock.try_lock() {
                Err(TryLockError::WouldBlock) => {
                    return Err(Fatal::new(format!("{slot} is being brought by another augur")));
                }
                // Where files cannot be locked, nobody is kept out.
                Ok(()) | Err(TryLockError::Error(_)) => {}
            }
            // Somebody may have removed the directory as left over before it was locked.
            if is_at(&lock, &home.join(LOCK)) {
                break lock;
            }
        };
        Ok(Self {
            slot: slot.clone(),
            home,
            dir,
            target: slot.place(models_dir),
            prepared: prepared(models_dir),
            is_kept: true,
            _lock: lock,
        })
    }

    /// Loads the model on this machine, runs its example, and puts it into its place; there is nothing left of it elsewhere then but what
    /// servers need to start sooner.
    ///
    /// # Errors
    /// When it does not load or run, and when it cannot be moved; what was in its place is there still.
    pub(crate) async fn install(&self, replace: bool, machine: Machine) -> Result<ModelSpec, Fatal> {
        let failed = |error: io::Error| Fatal::new(format!("{} cannot be put there: {error}", self.target.display()));
        sync(&self.dir).map_err(failed)?;
        let spec = self.prepare(machine).await?;
        refuse_existing(&self.target, &self.slot, replace)?;
        self.target.parent().map_or(Ok(()), fs::create_dir_all).map_err(failed)?;
        let from = fs::canonicalize(&self.dir).map_err(failed)?;
        put(&self.dir, &self.target, &self.home.join("replaced")).map_err(failed)?;
        if let Err(error) = remember_moved(&self.prepared, &from, &self.target) {
            // It is there all the same.
            tracing::warn!(%error, "servers have to find out anew what was found out about {}", self.slot);
        }
        self.discard();
        Ok(spec)
    }

    /// Loads the model and runs its example; remembers what that found out, and keeps what it packed.
    async fn prepare(&self, machine: Machine) -> Result<ModelSpec, Fatal> {
        let (model_dirs, digests) = (vec![self.dir.clone()], Some(self.prepared.clone()));
        let config = Config { model_dirs, digests, is_fresh: true, machine, ..Config::default() };
        let prepared = spawn_blocking(move || {
            let models = Models::load(&config)?;
            let spec = models.specs().remove(0);
            models.look(Look::AtOnce);
            Ok::<_, LoadError>(spec)
        });
        Ok(prepared.await??)
    }

    /// Removes what was gathered.
    pub(crate) fn discard(&self) {
        // What cannot be removed is hidden, and in nobody's way.
        let _ = fs::remove_dir_all(&self.home);
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.is_kept {
            self.discard();
        }
    }
}

/// The file that is locked, in what is gathered.
const LOCK: &str = "lock";

/// Whether the file has this path still.
fn is_at(file: &File, path: &Path) -> bool {
    let (Ok(open), Ok(there)) = (file.metadata(), fs::metadata(path)) else { return false };
    (open.dev(), open.ino()) == (there.dev(), there.ino())
}

fn in_a_name(slot: &Slot) -> String {
    slot.to_string().replace('/', "--")
}

/// Removes what processes gathered for this that nobody gathers any more: their locks ended with them.
fn remove_left_over(models_dir: &Path, slot: &Slot, purpose: &str) {
    let (begin, end) = (format!(".{purpose}-"), format!("-{}", in_a_name(slot)));
    for entry in fs::read_dir(models_dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(&begin)?.strip_suffix(&end));
        let is_one = process.is_some_and(|process| process.bytes().all(|digit| digit.is_ascii_digit()));
        if is_one && File::open(entry.path().join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok()) {
            // What cannot be removed is hidden, and in nobody's way.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// Refuses to go on when there is a model already, unless it shall be replaced.
///
/// # Errors
/// When there is one.
pub(crate) fn refuse_existing(target: &Path, slot: &Slot, replace: bool) -> Result<(), Fatal> {
    if target.exists() && !replace {
        return Err(Fatal::new(format!(
            "{slot} is there already, in {}; --replace replaces it, --label puts another version beside it",
            target.display()
        )));
    }
    Ok(())
}

/// Moves a directory to its place in one step, and what was there to the directory's.
fn put(dir: &Path, target: &Path, aside: &Path) -> io::Result<()> {
    if !target.exists() {
        fs::rename(dir, target)?;
    } else if renameat_with(CWD, dir, CWD, target, RenameFlags::EXCHANGE).is_err() {
        // Not every file system can exchange. Whoever looks between the two steps finds nothing there.
        fs::rename(target, aside)?;
        if let Err(error) = fs::rename(dir, target) {
            fs::rename(aside, target)?;
            return Err(error);
        }
    }
    match target.parent() {
        Some(owner) => File::open(owner)?.sync_all(),
        None => Ok(()),
    }
}

/// Sees to it that the files are on disk before the name says so.
fn sync(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { sync(&path)? } else { File::open(path)?.sync_all()? }
    }
    File::open(dir)?.sync_all()
}
