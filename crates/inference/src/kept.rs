//! Packed weights from one start to the next. To pack them takes longer than to read them; so what an arena holds is written to a file,
//! while the model is served, and a later start maps that, if it believes that the weights are what they were
//! ([`Remembered`](crate::remembered::Remembered)). It is verified while it is served, as the weights are, and not mapped any more then.
//!
//! A file begins with the length of its header, eight bytes, and the header, which is JSON; then come, from the next multiple of
//! [`KEPT_ALIGNMENT`] on, the lines of an arena. It is of one program, kind of processor and version, or of no use.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::{self, Write as _},
    ops::Range,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use kernels::{Cpu, Filled, KEPT_ALIGNMENT, Kept, PackedMatrix, Precision};
use prediction::Version;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::LoadError;

/// The program, as `build.rs` names it.
const PACKED_BY: &str = env!("AUGUR_PACKED_BY");

/// Bytes that are worth a file.
const LEAST: usize = 1 << 20;

/// Whoever writes a file leaves so many times its length free on the disk, which others need more.
const LEFT_FREE: u64 = 9;

/// The longest header that is read, in bytes.
const MOST_HEADER: u64 = 16 << 20;

/// What is in the directory and not kept may be being written for so long.
const AGE: Duration = Duration::from_secs(600);

/// Where the matrices of a model lie in an arena, in lines, by what they are.
pub(crate) type Places = BTreeMap<String, Vec<Range<usize>>>;

/// What a file says of itself.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Header {
    packed_by: String,
    version: Version,
    /// How weights are packed for the processor ([`Cpu::packing`]).
    packing: String,
    places: Places,
    /// Bytes that follow.
    length: usize,
    /// Their SHA-256.
    sha256: String,
}

/// Where a version's packed weights are kept.
#[derive(Clone)]
pub(crate) struct Shelf {
    directory: PathBuf,
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
}

/// Packed weights that are not kept yet.
pub(crate) struct Unkept {
    shelf: Shelf,
    filled: Filled,
    places: Places,
}

impl Shelf {
    /// That of a version, for such a processor.
    pub(crate) fn new(directory: PathBuf, version: Version, cpu: Cpu) -> Self {
        Self { directory, version, packing: cpu.packing() }
    }

    fn path(&self) -> PathBuf {
        self.directory.join(format!("{}-{}", self.version, self.packing))
    }

    /// What is there, if it is of this program.
    pub(crate) fn open(&self) -> Option<Box<KeptWeights>> {
        let path = self.path();
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
        Some(Box::new(KeptWeights { path, offset, header, kept: kept.ok()?, file }))
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

    /// The matrix of this name with this bias, if it was kept.
    pub(crate) fn matrix(
        &self,
        name: &str,
        cpu: Cpu,
        precision: Precision,
        inputs: usize,
        bias: &[f32],
    ) -> Option<PackedMatrix> {
        let places = self.header.places.get(&key(name, (bias.len(), inputs), cpu, precision))?;
        PackedMatrix::kept(&self.kept, places, cpu, precision, inputs, bias)
    }

    /// Reads what is kept into memory, where it takes the place of what was mapped if it is what was written. Says whether it is.
    ///
    /// # Errors
    /// When it cannot be read, or there is no room for it.
    pub(crate) fn settle(&self) -> Result<bool, LoadError> {
        let is_so = |bytes: &[u8]| hex::encode(Sha256::digest(bytes)) == self.header.sha256;
        let settled = self.kept.settle(&self.file, self.offset, is_so);
        settled.map_err(|error| LoadError::new(&self.path, format!("cannot be read: {error}")))
    }

    /// Removes the file.
    pub(crate) fn remove(&self) {
        // It may be gone already, or another.
        let _ = fs::remove_file(&self.path);
    }
}

impl Unkept {
    /// What an arena has, if it is worth a file.
    pub(crate) fn new(shelf: Shelf, filled: Filled, places: Places) -> Option<Box<Self>> {
        (filled.bytes().len() >= LEAST && !places.is_empty()).then(|| Box::new(Self { shelf, filled, places }))
    }

    /// Writes the file, whole or not at all, if its version is remembered, and removes those of versions that are not.
    ///
    /// # Errors
    /// When it cannot be written, or would not leave room enough.
    pub(crate) fn keep(self, remembered: &BTreeSet<&Version>) -> io::Result<()> {
        let Self { shelf, filled, places } = self;
        if !remembered.contains(&shelf.version) {
            return Ok(());
        }
        fs::create_dir_all(&shelf.directory)?;
        shelf.clear(remembered);
        let (bytes, path) = (filled.bytes(), shelf.path());
        let padding = vec![0; bytes.len().next_multiple_of(KEPT_ALIGNMENT) - bytes.len()];
        let sha256 = hex::encode(Sha256::new_with_prefix(bytes).chain_update(&padding).finalize());
        let (length, packing) = (bytes.len() + padding.len(), shelf.packing);
        let header = Header { packed_by: PACKED_BY.into(), version: shelf.version, packing, places, length, sha256 };
        let mut header = [vec![0; size_of::<u64>()], serde_json::to_vec(&header)?].concat();
        let header_length = (header.len() - size_of::<u64>()) as u64;
        header[..size_of::<u64>()].copy_from_slice(&header_length.to_le_bytes());
        header.resize(header.len().next_multiple_of(KEPT_ALIGNMENT), 0);
        let all = (header.len() + length) as u64;
        let room = rustix::fs::statvfs(&shelf.directory)?;
        if room.f_bavail.saturating_mul(room.f_frsize) / (LEFT_FREE + 1) < all {
            return Err(io::Error::other(format!("its {all} bytes are more than a tenth of what is free there")));
        }
        let beside = path.with_extension(format!("{:016x}", rand::random::<u64>()));
        let written = File::create_new(&beside).and_then(|mut file| {
            [&header, bytes, &padding].into_iter().try_for_each(|part| file.write_all(part))?;
            // Before it has its name: what that leads to is whole.
            file.sync_all()?;
            fs::rename(&beside, &path)
        });
        written.inspect_err(|_| drop(fs::remove_file(&beside)))
    }
}

impl Shelf {
    /// Removes what is there of versions that are not remembered, and what was begun long ago.
    fn clear(&self, remembered: &BTreeSet<&Version>) {
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name(), entry.path());
            let version = name.to_str().and_then(|name| name.split_once('-')?.0.parse::<Version>().ok());
            let is_kept = version.is_some_and(|version| remembered.contains(&version)) && path.extension().is_none();
            let written = entry.metadata().and_then(|metadata| metadata.modified());
            let is_old = written.is_ok_and(|written| written.elapsed().is_ok_and(|age| age > AGE));
            if !is_kept && is_old {
                let _ = fs::remove_file(path);
            }
        }
    }
}
