//! One file of a commit: fetched on from where an earlier attempt ended, and kept only when its digest is the one stated.

use std::{
    io::{self, SeekFrom},
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::BodyExt;
use hyper::{Response, StatusCode, body::Incoming, header::CONTENT_RANGE};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tokio::{
    fs::{self, File, OpenOptions},
    io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt},
    time::timeout,
};
use url::Url;

use super::{
    hub::{Hub, HubFile, Trouble, first_cause, pause},
    progress::Progress,
};

/// How long nothing may come.
const STALL: Duration = Duration::from_secs(30);
/// Bytes read at a time from what is there.
const CHUNK: usize = 1 << 18;

/// A file to be had, with what the hub states of it.
#[derive(Debug)]
pub(crate) struct Wanted {
    /// Where, in the repository and in the model's directory.
    pub(crate) path: String,
    /// Its size.
    pub(crate) bytes: u64,
    digest: Stated,
}

/// A digest, in lower-case hex.
#[derive(Debug)]
enum Stated {
    Sha256(String),
    /// The id of git's blob: SHA-1 over `blob <size>`, a zero byte and the content.
    Blob(String),
}

/// Why a file was not had.
#[derive(Debug)]
pub(crate) enum Failed {
    /// What came of it is kept.
    Away(String),
    /// What came is not what was stated.
    Wrong(String),
    /// It cannot be kept here.
    Disk(io::Error),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Self::Disk(error)
    }
}

impl Wanted {
    /// Takes the hub at its word; `None` when it does not say how large the file is, or what its digest.
    pub(crate) fn new(file: HubFile) -> Option<Self> {
        let digest = match (file.lfs, file.blob_id) {
            (Some(large), _) => Stated::Sha256(large.sha256.to_ascii_lowercase()),
            (None, Some(id)) => Stated::Blob(id.to_ascii_lowercase()),
            (None, None) => return None,
        };
        Some(Self { path: file.path, bytes: file.size?, digest })
    }
}

/// What has come of a file.
struct Part {
    file: File,
    length: u64,
    sha256: Sha256,
    blob: Sha1,
}

impl Part {
    async fn open(path: &Path, wanted: &Wanted) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).await?;
        let mut part = Self { file, length: 0, sha256: Sha256::new(), blob: blob(wanted) };
        let mut chunk = vec![0; CHUNK];
        loop {
            match part.file.read(&mut chunk).await? {
                0 => break,
                read => part.count(&chunk[..read]),
            }
        }
        if part.length > wanted.bytes {
            part.restart(wanted).await?;
        }
        Ok(part)
    }

    fn count(&mut self, bytes: &[u8]) {
        self.sha256.update(bytes);
        self.blob.update(bytes);
        self.length += bytes.len() as u64;
    }

    async fn restart(&mut self, wanted: &Wanted) -> io::Result<()> {
        self.file.set_len(0).await?;
        self.file.seek(SeekFrom::Start(0)).await?;
        (self.length, self.sha256, self.blob) = (0, Sha256::new(), blob(wanted));
        Ok(())
    }
}

fn blob(wanted: &Wanted) -> Sha1 {
    Sha1::new_with_prefix(format!("blob {}\0", wanted.bytes))
}

/// Fetches a file to `target` and returns its SHA-256 in hex. What is there already, or is there in part, is not fetched again.
///
/// # Errors
/// When it cannot be had, is not what was stated, or cannot be written.
pub(crate) async fn download(
    hub: &Hub,
    url: Url,
    wanted: &Wanted,
    target: &Path,
    progress: &mut Progress,
) -> Result<String, Failed> {
    if let Some(parent) = target.parent() {
        fs::create_dir_all(parent).await?;
    }
    let path = in_part(target);
    if target.exists() {
        // From an attempt that failed at another file; its digest counts as that of any other.
        fs::rename(target, &path).await?;
    }
    let mut part = Part::open(&path, wanted).await?;
    progress.had(part.length);
    let (mut attempts, mut most) = (0, part.length);
    while part.length < wanted.bytes {
        let failed = match hub.get(url.clone(), part.length).await {
            Ok(response) => take(response, &mut part, wanted, progress).await?,
            Err(trouble) => Some(trouble),
        };
        match failed {
            None => {}
            Some(Trouble::Final(reason)) => return Err(Failed::Away(reason)),
            Some(Trouble::Passing(reason)) => {
                // What came a second time is no progress.
                attempts = if part.length > most { 1 } else { attempts + 1 };
                most = most.max(part.length);
                if !pause(attempts).await {
                    return Err(Failed::Away(reason));
                }
            }
        }
    }
    part.file.flush().await?;
    let (sha256, blob) = (hex::encode(part.sha256.finalize()), hex::encode(part.blob.finalize()));
    let (kind, stated, is) = match &wanted.digest {
        Stated::Sha256(stated) => ("sha256", stated, &sha256),
        Stated::Blob(stated) => ("git blob id", stated, &blob),
    };
    if stated != is {
        return Err(Failed::Wrong(format!("the {kind} of {} is {is}, but the hub states {stated}", wanted.path)));
    }
    fs::rename(&path, target).await?;
    Ok(sha256)
}

/// Adds what an answer brings to what is there; says why it is not all.
async fn take(
    response: Response<Incoming>,
    part: &mut Part,
    wanted: &Wanted,
    progress: &mut Progress,
) -> Result<Option<Trouble>, Failed> {
    let passing = |reason: String| Ok(Some(Trouble::Passing(reason)));
    let is_rest = response.status() == StatusCode::PARTIAL_CONTENT;
    let range = response.headers().get(CONTENT_RANGE).and_then(|range| range.to_str().ok());
    let fits = is_rest && range.is_some_and(|range| range.starts_with(&format!("bytes {}-", part.length)));
    if part.length > 0 && !fits {
        progress.lost(part.length);
        part.restart(wanted).await?;
    }
    if response.status() == StatusCode::RANGE_NOT_SATISFIABLE || (is_rest && !fits) {
        return passing(format!("another part of {} came than was asked for", wanted.path));
    }
    let mut body = response.into_body();
    loop {
        let frame = match timeout(STALL, body.frame()).await {
            Err(_) => return passing(format!("nothing came of {} for {STALL:?}", wanted.path)),
            Ok(None) if part.length < wanted.bytes => return passing(format!("{} ended early", wanted.path)),
            Ok(None) => return Ok(None),
            Ok(Some(Err(error))) => return passing(format!("{} broke off: {}", wanted.path, first_cause(&error))),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        if part.length + data.len() as u64 > wanted.bytes {
            return Err(Failed::Wrong(format!("{} is longer than the {} bytes stated", wanted.path, wanted.bytes)));
        }
        part.file.write_all(&data).await?;
        part.count(&data);
        progress.came(data.len() as u64);
    }
}

/// Where a file is while it is not whole.
fn in_part(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".part");
    PathBuf::from(name)
}
