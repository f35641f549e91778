//! Tasks without which the queue would only look well: a panic in one of them is passed on to whoever watches.

use futures::FutureExt as _;
use std::{
    any::Any,
    panic::{AssertUnwindSafe, resume_unwind},
    sync::{Arc, Mutex, PoisonError},
};
use tokio::{sync::Notify, task::JoinHandle};

#[derive(Default)]
pub(crate) struct Tasks(Arc<Panics>);

#[derive(Default)]
struct Panics {
    first: Mutex<Option<Box<dyn Any + Send>>>,
    happened: Notify,
}

impl Tasks {
    /// Starts a task.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> JoinHandle<()> {
        let panics = Arc::clone(&self.0);
        tokio::spawn(async move {
            if let Err(panic) = AssertUnwindSafe(task).catch_unwind().await {
                panics.first.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(panic);
                // Kept for one who watches only later.
                panics.happened.notify_one();
            }
        })
    }

    /// Never returns.
    ///
    /// # Panics
    /// When one of the tasks has panicked: the first of those who watch.
    pub(crate) async fn watch(&self) {
        loop {
            self.0.happened.notified().await;
            let first = self.0.first.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(panic) = first {
                resume_unwind(panic);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{future::pending, time::Duration};
    use tokio::time::timeout;

    #[tokio::test]
    async fn a_panic_of_a_task_is_that_of_who_watches() {
        let tasks = Tasks::default();
        let well = tasks.spawn(pending());
        tasks.spawn(async {}).await.expect("it ends");
        tasks.spawn(pending()).abort();
        assert!(timeout(Duration::from_millis(20), tasks.watch()).await.is_err(), "nothing has panicked");

        tasks.spawn(async { panic!("as the test wants it") }).await.expect("it is caught");
        let watching = tokio::spawn(async move { tasks.watch().await });
        let panic = watching.await.expect_err("it panicked").into_panic();
        assert_eq!(panic.downcast_ref(), Some(&"as the test wants it"));
        assert!(!well.is_finished());
    }
}
