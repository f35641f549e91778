//! Steps that are taken again and again, recorded as a CUDA graph, which begins them all at once.
//!
//! Before a recording is used its steps are listed: all that is checked of them is checked, what they are called with is gathered and
//! nothing begun. A recording is used where the list is the very same, so it does what these calls would do, on memory that is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cudarc::driver::{
    CudaGraph, CudaStream,
    sys::{CUgraphInstantiate_flags, CUstreamCaptureMode},
};

use crate::card::Result;

/// Recordings that are kept, and lists that are remembered to see whether they come again.
const KEPT: usize = 64;
const REMEMBERED: usize = 256;

/// What steps are called with, one after the other.
type List = Vec<u64>;

/// Records steps of one card.
#[derive(Default)]
pub(super) struct Recorder {
    now: Mutex<Now>,
    known: Mutex<Known>,
}

/// What is done with steps just now.
#[derive(Default)]
enum Now {
    /// They begin.
    #[default]
    Nothing,
    /// They are listed alone.
    Listing(List),
    /// They are listed, and begin in a recording.
    Recording(List),
}

/// What was recorded, and what was only listed.
#[derive(Default)]
struct Known {
    recordings: BTreeMap<List, Recording>,
    lists: BTreeSet<List>,
    /// How many recordings were used.
    uses: u64,
}

struct Recording {
    graph: Graph,
    /// The last of the uses that was its.
    used: u64,
}

struct Graph(CudaGraph);

// SAFETY: graphs are not used by two threads at once: they are behind a mutex.
unsafe impl Send for Graph {}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    /// Whether a step is only to be listed; notes what it is called with where steps are.
    pub(super) fn lists(&self, what: &[&[u64]]) -> bool {
        match &mut *locked(&self.now) {
            Now::Nothing => false,
            Now::Listing(list) => {
                what.iter().for_each(|words| list.extend_from_slice(words));
                true
            }
            Now::Recording(list) => {
                what.iter().for_each(|words| list.extend_from_slice(words));
                false
            }
        }
    }

    pub(super) fn is_recording(&self) -> bool {
        matches!(&*locked(&self.now), Now::Recording(_))
    }

    /// What steps are called with, and what they say.
    fn listed(&self, now: Now, steps: &mut dyn FnMut() -> Result<bool>) -> (List, Result<bool>) {
        /// Steps that panic leave nothing behind.
        struct Ended<'a>(&'a Recorder);
        impl Drop for Ended<'_> {
            fn drop(&mut self) {
                *locked(&self.0.now) = Now::Nothing;
            }
        }
        *locked(&self.now) = now;
        let ended = Ended(self);
        let result = steps();
        let list = match mem::take(&mut *locked(&self.now)) {
            Now::Nothing => List::new(),
            Now::Listing(list) | Now::Recording(list) => list,
        };
        drop(ended);
        (list, result)
    }

    /// As [`Card::repeat`](crate::Card::repeat).
    pub(super) fn repeat(&self, stream: &Arc<CudaStream>, steps: &mut dyn FnMut() -> Result<bool>) -> Result<bool> {
        let mut known = locked(&self.known);
        let (list, result) = self.listed(Now::Listing(List::new()), steps);
        if !result? {
            return Ok(false);
        }
        if known.launch(&list)? {
            return Ok(true);
        }
        if !known.lists.remove(&list) {
            if known.lists.len() == REMEMBERED {
                known.lists.clear();
            }
            known.lists.insert(list);
            return steps();
        }
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        let (list, result) = self.listed(Now::Recording(List::new()), steps);
        let graph = stream.end_capture(CUgraphInstantiate_flags(0));
        match (result, graph) {
            (Ok(true), Ok(Some(graph))) => {
                known.keep(list.clone(), Graph(graph));
                known.launch(&list)
            }
            (Ok(false), _) => Ok(false),
            // What cannot be recorded can be done.
            _ => steps(),
        }
    }
}

impl Known {
    /// Begins the steps of this list, if they were recorded.
    fn launch(&mut self, list: &List) -> Result<bool> {
        let Some(recording) = self.recordings.get_mut(list) else { return Ok(false) };
        self.uses += 1;
        recording.used = self.uses;
        recording.graph.0.launch()?;
        Ok(true)
    }

    /// Keeps a recording, in the place of the one that was not used for longest where there are enough.
    fn keep(&mut self, list: List, graph: Graph) {
        if self.recordings.len() == KEPT {
            let oldest = self.recordings.iter().min_by_key(|(_, recording)| recording.used);
            let oldest = oldest.map(|(list, _)| list.clone());
            oldest.map(|list| self.recordings.remove(&list));
        }
        self.recordings.insert(list, Recording { graph, used: self.uses });
    }
}
