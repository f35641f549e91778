//! A value read from the store, shared by all requests and read again by only one of them at a time.

use std::{
    future::Future,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::{sync::Mutex, time::Instant};

use crate::problem::Problem;

/// The last value read, and when.
pub(crate) struct Cached<T> {
    latest: RwLock<Option<(Instant, Arc<T>)>>,
    /// Held while reading; remembers when the last reading failed, so that those who waited for it fail with it.
    reading: Mutex<Option<Instant>>,
}

impl<T> Cached<T> {
    /// Nothing read yet.
    pub(crate) fn empty() -> Self {
        Self { latest: RwLock::new(None), reading: Mutex::new(None) }
    }

    /// The last value, however old.
    pub(crate) fn latest(&self) -> Option<Arc<T>> {
        self.read().map(|(_, value)| value)
    }

    /// A value no older than `age`, read with `load` when there is none.
    pub(crate) async fn within<F>(&self, age: Duration, load: impl FnOnce() -> F) -> Result<Arc<T>, Problem>
    where
        F: Future<Output = Result<T, Problem>>,
    {
        let asked = Instant::now();
        let fresh = || self.read().filter(|(read_at, _)| *read_at + age >= asked).map(|(_, value)| value);
        if let Some(value) = fresh() {
            return Ok(value);
        }
        let mut failed = self.reading.lock().await;
        if let Some(value) = fresh() {
            return Ok(value);
        }
        if failed.is_some_and(|at| at >= asked) {
            return Err(Problem::store_unavailable());
        }
        let started = Instant::now();
        match load().await {
            Ok(value) => {
                let value = Arc::new(value);
                *self.latest.write().unwrap_or_else(PoisonError::into_inner) = Some((started, Arc::clone(&value)));
                *failed = None;
                Ok(value)
            }
            Err(problem) => {
                *failed = Some(Instant::now());
                Err(problem)
            }
        }
    }

    fn read(&self) -> Option<(Instant, Arc<T>)> {
        self.latest.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[tokio::test]
    async fn concurrent_askers_share_one_reading_and_its_failure() {
        let cached = Cached::<usize>::empty();
        let readings = AtomicUsize::new(0);
        let ask = |succeeds: bool| {
            let readings = &readings;
            let cached = &cached;
            async move {
                let load = || async {
                    tokio::task::yield_now().await;
                    let count = readings.fetch_add(1, Ordering::Relaxed) + 1;
                    if succeeds { Ok(count) } else { Err(Problem::store_unavailable()) }
                };
                cached.within(Duration::from_secs(3600), load).await.ok().map(|value| *value)
            }
        };
        assert_eq!(tokio::join!(ask(false), ask(false), ask(false)), (None, None, None));
        assert_eq!(readings.load(Ordering::Relaxed), 1);
        assert_eq!(tokio::join!(ask(true), ask(true)), (Some(2), Some(2)));
        assert_eq!(ask(true).await, Some(2));
    }
}
