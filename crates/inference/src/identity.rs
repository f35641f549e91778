//! What the system says of a file: another answer when it was written, replaced, or anything about it was changed.

use std::{
    fs::Metadata,
    os::unix::fs::MetadataExt as _,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};

/// Which file it is of its file system (whose own number may be another each time it is mounted), its size and its times.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Identity {
    length: u64,
    inode: u64,
    /// When it was written, and when anything about it was changed: seconds and nanoseconds since 1970.
    times: [(i64, i64); 2],
}

impl Identity {
    /// That of a file, as the system told it.
    pub(crate) fn of(metadata: &Metadata) -> Self {
        Self {
            length: metadata.len(),
            inode: metadata.ino(),
            times: [(metadata.mtime(), metadata.mtime_nsec()), (metadata.ctime(), metadata.ctime_nsec())],
        }
    }

    /// Whether the file has not been written since; it may have another name now, or none.
    pub(crate) fn was_not_written_since(&self, now: &Self) -> bool {
        let [written, _] = self.times;
        (self.length, self.inode, written) == (now.length, now.inode, now.times[0])
    }

    /// Whether the file has been as it is for so long. A file that has not may be changed once more without another time: clocks of file
    /// systems have ticks.
    pub(crate) fn is_older_than(&self, age: Duration) -> bool {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let latest = now.saturating_sub(age).as_secs();
        self.times.iter().all(|(seconds, _)| u64::try_from(*seconds).is_ok_and(|seconds| seconds < latest))
    }
}
