//! Packed weights from one start to the next. To pack them takes longer than to read them; so what an arena holds is written to a file,
//! while the model is served, and a later start maps that, if it believes that the weights are what they were
//! ([`Remembered`](crate::remembered::Remembered)). It is verified while it is served, as the weights are, and not mapped any more then.
//!
//! A file begins with the length of its header, eight bytes, and the header, which is JSON; then come, from the next multiple of
//! [`KEPT_ALIGNMENT`] on, the lines of an arena. It is of one program, kind of processor and version, or of no use.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, Metadata},
    io::{self, Write as _},
    iter,
    ops::Range,
    os::unix::fs::{FileExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use kernels::{Cpu, Filled, KEPT_ALIGNMENT, Kept, PackedMatrix, Precision};
use prediction::Version;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The program, as `build.rs` names it.
const PACKED_BY: &str = env!("AUGUR_PACKED_BY");

/// Bytes that are worth a file.
const LEAST: usize = 1 << 20;

/// Whoever writes a file leaves so many times its length free on the disk, which others need more.
const LEFT_FREE: u64 = 9;

/// Bytes that are written before the disk is waited for.
const AT_ONCE: usize = 8 << 20;

/// The longest header that is read, in bytes.
const MOST_HEADER: u64 = 16 << 20;

/// What is in the directory and not kept may be being written for so long.
const AGE: Duration = Duration::from_secs(600);

/// Where the matrices of a model lie in an arena, in lines, by what they are.
pub(crate) type Places = BTreeMap<String, Vec<Range<usize>>>;

/// What a file says of itself.
#[derive(Serialize, Deserialize)]
struct Header {
    packed_by: String,
    version: Version,
    /// How weights are packed for the processor ([`Cpu::packing`]).
    packing: String,
    places: Places,
    /// Bytes that follow.
    length: usize,
    /// The SHA-256 of the places, as JSON has them, and of the bytes.
    sha256: String,
}

/// Where a version's packed weights are kept.
pub(crate) struct Shelf {
    /// Where a start keeps them.
    own: Option<PathBuf>,
    /// Where they may have been kept when the model was brought.
    prepared: Option<PathBuf>,
    version: Version,
    packing: String,
}

/// What became of packed weights.
pub(crate) enum Packing {
    /// They are an earlier start's.
    Kept(Box<KeptWeights>),
    /// They could be a later one's.
    Unkept(Box<Unkept>),
}

/// Packed weights that an earlier start has kept.
pub(crate) struct KeptWeights {
    path: PathBuf,
    file: File,
    offset: u64,
    header: Header,
    kept: Kept,
    is_used: AtomicBool,
}

/// Packed weights that are not kept yet.
pub(crate) struct Unkept {
    shelf: Shelf,
    filled: Filled,
    places: Places,
}

impl Shelf {
    /// That of a version, for such a processor.
    pub(crate) fn new(own: Option<PathBuf>, prepared: Option<PathBuf>, version: Version, cpu: Cpu) -> Self {
        Self { own, prepared, version, packing: cpu.packing() }
    }

    fn path_in(&self, directory: &Path) -> PathBuf {
        directory.join(format!("{}-{}", self.version, self.packing))
    }

    /// What is there, if it is of this program.
    pub(crate) fn open(&self) -> Option<Box<KeptWeights>> {
        [&self.own, &self.prepared].into_iter().flatten().find_map(|directory| self.open_in(directory))
    }

    fn open_in(&self, directory: &Path) -> Option<Box<KeptWeights>> {
        let path = self.path_in(directory);
        let file = File::open(&path).ok()?;
        let mut length = [0; size_of::<u64>()];
        file.read_exact_at(&mut length, 0).ok()?;
        let length = Some(u64::from_le_bytes(length)).filter(|length| *length <= MOST_HEADER)?;
        let mut header = vec![0; usize::try_from(length).ok()?];
        file.read_exact_at(&mut header, size_of::<u64>() as u64).ok()?;
        let header: Header = serde_json::from_slice(&header).ok()?;
        let is_ours =
            (&*header.packed_by, &header.version, &header.packing) == (PACKED_BY, &self.version, &self.packing);
        let offset = (size_of::<u64>() as u64 + length).next_multiple_of(KEPT_ALIGNMENT as u64);
        let kept = is_ours.then(|| Kept::map(&file, offset, header.length))?;
        Some(Box::new(KeptWeights { path, offset, header, kept: kept.ok()?, is_used: AtomicBool::new(false), file }))
    }
}

/// What a matrix is of: its name, and whatever else there is to how it was packed.
pub(crate) fn key(name: &str, (outputs, inputs): (usize, usize), cpu: Cpu, precision: Precision) -> String {
    format!("{name} {outputs}x{inputs} {precision:?} {}", cpu.packing())
}

impl KeptWeights {
    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The matrix of this [`key`] with this bias, if it was kept.
    pub(crate) fn matrix(
        &self,
        key: &str,
        cpu: Cpu,
        precision: Precision,
        inputs: usize,
        bias: &[f32],
    ) -> Option<PackedMatrix> {
        let places = self.header.places.get(key)?;
        let matrix = PackedMatrix::kept(&self.kept, places, cpu, precision, inputs, bias)?;
        self.is_used.store(true, Ordering::Relaxed);
        Some(matrix)
    }

    /// Whether anything of it is used.
    pub(crate) fn is_used(&self) -> bool {
        self.is_used.load(Ordering::Relaxed)
    }

    /// Reads what is kept into memory, where it takes the place of what was mapped if it is what was written. If not, the file is removed.
    ///
    /// # Errors
    /// When it is not what was written or cannot be read, and when there is no memory for it (`OutOfMemory`).
    pub(crate) fn settle(&self) -> io::Result<()> {
        let is_so =
            |bytes: &[u8]| digest(&self.header.places, [bytes]).is_ok_and(|sha256| sha256 == self.header.sha256);
        let settled = self.kept.settle(&self.file, self.offset, is_so).and_then(|is_so| {
            if is_so { Ok(()) } else { Err(io::Error::other("is not what an earlier start has written")) }
        });
        settled.inspect_err(|error| {
            if error.kind() != io::ErrorKind::OutOfMemory {
                self.remove();
            }
        })
    }

    /// Removes the file, unless another is there by now.
    fn remove(&self) {
        let inode = |metadata: io::Result<Metadata>| metadata.map(|metadata| metadata.ino()).ok();
        if inode(fs::metadata(&self.path)) == inode(self.file.metadata())
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::error!(path = %self.path.display(), %error, "cannot be removed: the next start will use it again");
        }
    }
}

/// What vouches for packed weights.
fn digest<'a>(places: &Places, bytes: impl IntoIterator<Item = &'a [u8]>) -> io::Result<String> {
    let hasher = Sha256::new_with_prefix(serde_json::to_vec(places)?);
    Ok(hex::encode(bytes.into_iter().fold(hasher, |hasher, bytes| hasher.chain_update(bytes)).finalize()))
}

impl Unkept {
    /// Those of an arena that have names, if they are worth a file and there is a place for it.
    pub(crate) fn new(shelf: Shelf, filled: Filled, places: Places) -> Option<Box<Self>> {
        let bytes = places.values().flatten().map(|place| filled.lines(place.clone()).len()).sum::<usize>();
        (bytes >= LEAST && shelf.own.is_some()).then(|| Box::new(Self { shelf, filled, places }))
    }

    /// Writes the file, whole or not at all, if its version is remembered and there is none yet.
    ///
    /// # Errors
    /// When it cannot be written, or would not leave room enough.
    pub(crate) fn keep(self, remembered: &BTreeSet<&Version>) -> io::Result<()> {
        let Self { shelf, filled, places: in_arena } = self;
        let Some(directory) = &shelf.own else { return Ok(()) };
        if !remembered.contains(&shelf.version) || shelf.open_in(directory).is_some() {
            return Ok(());
        }
        // One behind the other: an arena has others in between, which have no names.
        let (mut bytes, mut places, mut end): (Vec<&[u8]>, _, _) = (Vec::new(), Places::new(), 0);
        for (key, of_matrix) in in_arena {
            let moved = of_matrix.into_iter().map(|place| {
                end += place.len();
                let moved = end - place.len()..end;
                bytes.push(filled.lines(place));
                moved
            });
            let moved = moved.collect();
            places.insert(key, moved);
        }
        let named: usize = bytes.iter().map(|bytes| bytes.len()).sum();
        let length = named.next_multiple_of(KEPT_ALIGNMENT);
        let padding = vec![0; length - named];
        bytes.push(&padding);
        fs::create_dir_all(directory)?;
        let (path, room) = (shelf.path_in(directory), rustix::fs::statvfs(directory)?);
        let Shelf { version, packing, .. } = shelf;
        if room.f_bavail.saturating_mul(room.f_frsize) / (LEFT_FREE + 1) < length as u64 {
            return Err(io::Error::other(format!("its {length} bytes are more than a tenth of what is free there")));
        }
        let sha256 = digest(&places, bytes.iter().copied())?;
        let header = Header { packed_by: PACKED_BY.into(), version, packing, places, length, sha256 };
        let header = serde_json::to_vec(&header)?;
        let mut begin = [&(header.len() as u64).to_le_bytes(), header.as_slice()].concat();
        begin.resize(begin.len().next_multiple_of(KEPT_ALIGNMENT), 0);
        // One at a time, whoever writes it.
        let beside = path.with_extension("new");
        let mut file = File::create_new(&beside)?;
        let mut unsynced = 0;
        let written = iter::once(&*begin).chain(bytes).flat_map(|bytes| bytes.chunks(AT_ONCE)).try_for_each(|bytes| {
            file.write_all(bytes)?;
            unsynced += bytes.len();
            // Little at a time: somebody else may wait for that disk.
            if unsynced < AT_ONCE { Ok(()) } else { file.sync_data().map(|()| unsynced = 0) }
        });
        // Before it has its name, so that what that leads to is whole.
        let written = written.and_then(|()| file.sync_data());
        let written = written.and_then(|()| fs::rename(&beside, &path));
        written.inspect_err(|_| drop(fs::remove_file(&beside)))
    }
}

/// Removes what is in a directory of packed weights of versions that are not remembered, and what was begun and not finished, if it is old.
pub(crate) fn clear(directory: &Path, remembered: &BTreeSet<&Version>) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let version = name.to_str().and_then(|name| name.split_once('-')?.0.parse::<Version>().ok());
        let is_kept = version.as_ref().is_none_or(|version| remembered.contains(version) && path.extension().is_none());
        let written = entry.metadata().and_then(|metadata| metadata.modified());
        let is_old = written.is_ok_and(|written| written.elapsed().is_ok_and(|age| age > AGE));
        if !is_kept && is_old {
            let _ = fs::remove_file(path);
        }
    }
}
