//! Says now and then what goes on being so, however often it is seen.

use std::{
    sync::Mutex,
    time::{Duration, Instant},
};

/// When something was last said.
pub(crate) struct Sparingly {
    every: Duration,
    said: Mutex<Option<Instant>>,
}

impl Sparingly {
    /// At most once in so long.
    pub(crate) fn new(every: Duration) -> Self {
        Self { every, said: Mutex::default() }
    }

    /// Says it, unless it was said lately.
    pub(crate) fn say(&self, say: impl FnOnce()) {
        let now = Instant::now();
        let mut said = self.said.lock().expect("no panic while locked");
        if said.is_none_or(|said| now - said >= self.every) {
            *said = Some(now);
            drop(said);
            say();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_once_in_a_while() {
        let said = |every| {
            let (sparingly, mut times) = (Sparingly::new(every), 0);
            (0..3).for_each(|_| sparingly.say(|| times += 1));
            times
        };
        assert_eq!((said(Duration::from_secs(3600)), said(Duration::ZERO)), (1, 3));
    }
}
