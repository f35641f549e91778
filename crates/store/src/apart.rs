//! What the database refuses to do to several together is done apart, so that one row that is refused harms no other.

use std::{collections::VecDeque, fmt::Debug};

use prediction::PredictionId;

use crate::StoreError;

/// Where so many stand alone and are refused, and nothing was done in between, the fault is hardly theirs: the rest is not tried.
const MOST_REFUSED: usize = 32;

/// What became of all, in their order.
pub(crate) struct Apart<'a, T, R> {
    /// Of parts that were done.
    pub(crate) done: Vec<R>,
    /// Those that the database refuses alone.
    pub(crate) refused: Vec<(&'a T, StoreError)>,
    /// Those that were not tried.
    pub(crate) left: Vec<&'a T>,
}

impl<T: Debug, R> Apart<'_, T, R> {
    /// Says of those that are refused `what` that means, in one line.
    pub(crate) fn report(&self, what: &'static str) {
        if let Some((first, error)) = self.refused.first() {
            let (refused, not_tried) = (self.refused.len(), self.left.len());
            tracing::error!(%error, ?first, refused, not_tried, "{what}");
        }
    }
}

/// Calls for `all`. What is refused is halved until those that the database refuses stand alone; large parts go first, so that
/// most of what can be done is done soon.
///
/// # Errors
/// The first of another kind, unless something was done before, which the caller is to have.
pub(crate) async fn apart<'a, T, R, F>(all: &'a [T], call: impl Fn(&'a [T]) -> F) -> Result<Apart<'a, T, R>, StoreError>
where
    F: Future<Output = Result<R, StoreError>>,
{
    // With the places where they begin.
    let mut parts = VecDeque::from([(0, all)]);
    let (mut done, mut refused, mut left) = (Vec::new(), Vec::new(), Vec::new());
    let mut refused_since_done = 0;
    while let Some((place, part)) = parts.pop_front().filter(|(_, part)| !part.is_empty()) {
        match (call(part).await, part) {
            (Ok(result), _) => {
                done.push((place, result));
                refused_since_done = 0;
            }
            (Err(error @ StoreError::Refused(_)), [alone]) => {
                refused.push((place, (alone, error)));
                refused_since_done += 1;
                if refused_since_done == MOST_REFUSED {
                    break;
                }
            }
            (Err(StoreError::Refused(_)), _) => {
                let middle = part.len() / 2;
                let (first, second) = part.split_at(middle);
                parts.extend([(place, first), (place + middle, second)]);
            }
            (Err(error), _) if done.is_empty() => return Err(error),
            (Err(error), _) => {
                tracing::warn!(%error, "not all was done");
                left.push((place, part));
                break;
            }
        }
    }
    left.extend(parts);
    let left = in_order(left).into_iter().flatten().collect();
    Ok(Apart { done: in_order(done), refused: in_order(refused), left })
}

fn in_order<T>(mut placed: Vec<(usize, T)>) -> Vec<T> {
    placed.sort_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, what)| what).collect()
}

/// Makes a call that finds by itself which predictions it is for. Where that is refused it is made among those that `find` names,
/// apart. Returns what it did, and those that are refused alone, of which it says `what`.
///
/// # Errors
/// As [`apart`].
pub(crate) async fn among<R, F>(
    call: impl Fn(Option<Vec<PredictionId>>) -> F,
    find: impl Future<Output = Result<Vec<PredictionId>, StoreError>>,
    what: &'static str,
) -> Result<(Vec<R>, Vec<PredictionId>), StoreError>
where
    F: Future<Output = Result<R, StoreError>>,
{
    match call(None).await {
        Err(StoreError::Refused(_)) => {
            let found = find.await?;
            let apart = apart(&found, |part| call(Some(part.to_vec()))).await?;
            apart.report(what);
            Ok((apart.done, apart.refused.into_iter().map(|(prediction, _)| *prediction).collect()))
        }
        answer => Ok((vec![answer?], Vec::new())),
    }
}

#[cfg(test)]
mod tests {
    use std::{future::ready, sync::Mutex};

    use super::*;

    fn refused() -> StoreError {
        StoreError::Refused(sqlx::Error::RowNotFound)
    }

    #[tokio::test]
    async fn those_that_are_refused_stand_alone_and_the_rest_is_done_in_order() {
        let all: Vec<u32> = (0..100).collect();
        let guilty = |item: &u32| [17, 18, 99].contains(item);
        let call = |part: &[u32]| ready(if part.iter().any(guilty) { Err(refused()) } else { Ok(part.to_vec()) });
        let apart = apart(&all, call).await.expect("it goes on");
        assert_eq!(apart.refused.iter().map(|(item, _)| **item).collect::<Vec<_>>(), [17, 18, 99]);
        assert_eq!(apart.done.concat(), all.iter().copied().filter(|item| !guilty(item)).collect::<Vec<_>>());
        assert!(apart.left.is_empty());
    }

    #[tokio::test]
    async fn large_parts_go_first() {
        let (all, asked): (Vec<u32>, _) = ((0..64).collect(), Mutex::new(Vec::new()));
        let call = |part: &[u32]| {
            asked.lock().expect("no panic").push(part.len());
            ready(if part.contains(&0) { Err(refused()) } else { Ok(()) })
        };
        assert_eq!(apart(&all, call).await.expect("it goes on").done.len(), 6);
        assert!(asked.into_inner().expect("no panic").is_sorted_by(|before, after| before >= after));
    }

    #[tokio::test]
    async fn where_all_are_refused_not_all_are_tried() {
        let all = [0; 4 * MOST_REFUSED];
        let apart = apart(&all, |_| ready(Err::<(), _>(refused()))).await.expect("it ends");
        assert_eq!((apart.done.len(), apart.refused.len(), apart.left.len()), (0, MOST_REFUSED, 3 * MOST_REFUSED));
        assert!(super::apart(&all[..0], |_| ready(Err::<(), _>(refused()))).await.expect("nothing").done.is_empty());
    }

    #[tokio::test]
    async fn however_many_are_refused_those_between_them_are_done() {
        let all: Vec<u32> = (0..8 * 32).collect();
        let call =
            |part: &[u32]| ready(if part.iter().any(|item| item % 2 == 0) { Err(refused()) } else { Ok(part.len()) });
        let apart = apart(&all, call).await.expect("it goes on");
        assert_eq!((apart.done.iter().sum::<usize>(), apart.refused.len(), apart.left.len()), (128, 128, 0));
    }

    #[tokio::test]
    async fn what_was_done_is_told_though_the_database_goes_away() {
        let all = [0, 1, 2];
        let call = |away: u32| {
            move |part: &[u32]| {
                ready(match part {
                    [alone] if *alone < away => Ok(*alone),
                    [_] => Err(StoreError::Unavailable(sqlx::Error::WorkerCrashed)),
                    _ => Err(refused()),
                })
            }
        };
        let some = apart(&all, call(1)).await.expect("one was done");
        assert_eq!((some.done, some.left), (vec![0], vec![&1, &2]));
        assert!(matches!(apart(&all, call(0)).await, Err(StoreError::Unavailable(_))));
    }
}
