//! What the database refuses to do to several together is done apart, so that one row that is refused harms no other.

use prediction::PredictionId;

use crate::StoreError;

/// Where so many stand alone and are refused, the fault is hardly theirs: the rest is not tried.
const MOST_REFUSED: usize = 32;

/// What became of all, in their order.
pub(crate) struct Apart<'a, T, R> {
    /// Of parts that were done.
    pub(crate) done: Vec<R>,
    /// Those that the database refuses alone.
    pub(crate) refused: Vec<(&'a T, StoreError)>,
}

/// Calls for `all`. What is refused is halved until those that the database refuses stand alone.
///
/// # Errors
/// The first of another kind, unless something was done before, which the caller is to have.
pub(crate) async fn apart<'a, T, R, F>(all: &'a [T], call: impl Fn(&'a [T]) -> F) -> Result<Apart<'a, T, R>, StoreError>
where
    F: Future<Output = Result<R, StoreError>>,
{
    let mut parts = vec![all];
    let mut apart = Apart { done: Vec::new(), refused: Vec::new() };
    while let Some(part) = parts.pop() {
        if part.is_empty() {
            break;
        }
        if apart.refused.len() == MOST_REFUSED {
            tracing::error!("so many were refused one by one that the rest was not tried");
            break;
        }
        match (call(part).await, part) {
            (Ok(done), _) => apart.done.push(done),
            (Err(error @ StoreError::Refused(_)), [alone]) => apart.refused.push((alone, error)),
            (Err(StoreError::Refused(_)), _) => {
                let (first, second) = part.split_at(part.len() / 2);
                parts.extend([second, first]);
            }
            (Err(error), _) if apart.done.is_empty() => return Err(error),
            (Err(error), _) => {
                tracing::warn!(%error, "not all was done");
                break;
            }
        }
    }
    Ok(apart)
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
            for (prediction, error) in &apart.refused {
                tracing::error!(%error, %prediction, "{what}");
            }
            Ok((apart.done, apart.refused.into_iter().map(|(prediction, _)| *prediction).collect()))
        }
        answer => Ok((vec![answer?], Vec::new())),
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

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
        assert_eq!(apart.done.concat(), all.into_iter().filter(|item| !guilty(item)).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn where_all_are_refused_not_all_are_tried() {
        let all = [0; 4 * MOST_REFUSED];
        let apart = apart(&all, |_| ready(Err::<(), _>(refused()))).await.expect("it ends");
        assert_eq!((apart.done.len(), apart.refused.len()), (0, MOST_REFUSED));
        assert!(super::apart(&all[..0], |_| ready(Err::<(), _>(refused()))).await.expect("nothing").done.is_empty());
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
        assert_eq!(apart(&all, call(1)).await.expect("one was done").done, [0]);
        assert!(matches!(apart(&all, call(0)).await, Err(StoreError::Unavailable(_))));
    }
}
