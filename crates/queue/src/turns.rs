//! Whose turn it is: the streams of one priority are served in turn, so that none starves another.

use prediction::Priority;

/// Streams, by their numbers from 0, in runs of neighbours of equal priority. Runs are served in the order given.
pub(crate) struct Turns {
    runs: Vec<Run>,
}

struct Run {
    priority: Priority,
    start: usize,
    end: usize,
    /// The one that is first next time.
    first: usize,
}

impl Turns {
    pub(crate) fn new(priorities: impl IntoIterator<Item = Priority>) -> Self {
        let mut runs: Vec<Run> = Vec::new();
        for (number, priority) in priorities.into_iter().enumerate() {
            match runs.last_mut() {
                Some(run) if run.priority == priority => run.end += 1,
                _ => runs.push(Run { priority, start: number, end: number + 1, first: number }),
            }
        }
        Self { runs }
    }

    /// Every stream, in the order in which to serve them now.
    pub(crate) fn order(&self) -> impl Iterator<Item = usize> {
        self.runs.iter().flat_map(|run| (run.first..run.end).chain(run.start..run.first))
    }

    /// How many streams each run has.
    pub(crate) fn lengths(&self) -> impl Iterator<Item = usize> {
        self.runs.iter().map(|run| run.end - run.start)
    }

    /// Whoever comes after the last one that was served is first next time. (Were it whoever comes after the last first
    /// one, a stream would also get the turns of the empty ones before it.)
    pub(crate) fn served(&mut self, stream: usize) {
        if let Some(run) = self.runs.iter_mut().find(|run| (run.start..run.end).contains(&stream)) {
            run.first = if stream + 1 < run.end { stream + 1 } else { run.start };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Priority::{High, Low, Normal};

    #[test]
    fn runs_take_turns_each_for_itself() {
        let mut turns = Turns::new([High, High, Normal, Low, Low, Low]);
        let order = |turns: &Turns| turns.order().collect::<Vec<_>>();
        assert_eq!(order(&turns), [0, 1, 2, 3, 4, 5]);
        assert_eq!(turns.lengths().collect::<Vec<_>>(), [2, 1, 3]);
        for (served, expected) in [
            (0, [1, 0, 2, 3, 4, 5]),
            (4, [1, 0, 2, 5, 3, 4]),
            (2, [1, 0, 2, 5, 3, 4]),
            (1, [0, 1, 2, 5, 3, 4]),
            (5, [0, 1, 2, 3, 4, 5]),
        ] {
            turns.served(served);
            assert_eq!(order(&turns), expected, "{served} was served");
        }
        assert_eq!(turns.lengths().collect::<Vec<_>>(), [2, 1, 3]);
    }
}
