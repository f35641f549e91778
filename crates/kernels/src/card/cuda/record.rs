//! Steps that are taken again and again, recorded as a CUDA graph, which begins them all at once.
//!
//! Before a recording is used its steps are listed: all that is checked of them is checked, what they are called with is gathered and
//! nothing begun. A recording is used where the list is the very same, so it does what these calls would do, on memory that is there.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
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

/// Keeps steps from being recorded: cuBLAS waits for all of a card when it begins and when it ends, which breaks off recordings of others.
pub(super) fn alone() -> MutexGuard<'static, ()> {
    static RECORDING: Mutex<()> = Mutex::new(());
    locked(&RECORDING)
}

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
        if known.begins(&list) {
            return Ok(true);
        }
        if !known.lists.remove(&list) {
            if known.lists.len() == REMEMBERED {
                known.lists.clear();
            }
            known.lists.insert(list);
            return steps();
        }
        let (list, result, graph) = self.recorded(stream, steps)?;
        match (result, graph) {
            (Ok(false), _) => return Ok(false),
            (Ok(true), Some(graph)) => known.keep(list.clone(), graph),
            _ => return steps(),
        }
        // What cannot be recorded, or not be begun so, can be done.
        if known.begins(&list) { Ok(true) } else { steps() }
    }

    /// What steps are called with, what they say, and their recording; which ends however they do, for what begins later would be
    /// recorded too.
    fn recorded(
        &self,
        stream: &Arc<CudaStream>,
        steps: &mut dyn FnMut() -> Result<bool>,
    ) -> Result<(List, Result<bool>, Option<Graph>)> {
        let _alone = alone();
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        let steps = catch_unwind(AssertUnwindSafe(|| self.listed(Now::Recording(List::new()), steps)));
        // An error that was kept, of memory given back, would be said instead of ending it.
        let _ = stream.context().check_err();
        let graph = stream.end_capture(CUgraphInstantiate_flags(0)).ok().flatten().map(Graph);
        let (list, result) = steps.unwrap_or_else(|panic| resume_unwind(panic));
        Ok((list, result, graph))
    }
}

impl Known {
    /// Whether the steps of this list were recorded, and so have begun. A recording that cannot be begun is forgotten.
    fn begins(&mut self, list: &List) -> bool {
        let Some(recording) = self.recordings.get_mut(list) else { return false };
        self.uses += 1;
        recording.used = self.uses;
        let has_begun = recording.graph.0.launch().is_ok();
        if !has_begun {
            self.recordings.remove(list);
        }
        has_begun
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
