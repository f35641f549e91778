//! A few threads that share one piece of work after another: woken once for many of them, because a step of a network takes
//! about as long as it takes to wake a thread.

use std::{
    any::Any,
    cell::UnsafeCell,
    hint::spin_loop,
    io,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle, Thread},
    time::{Duration, Instant},
};

/// How long a thread looks for more work before it sleeps: longer than between two steps, no longer than it takes to wake.
const SPIN: Duration = Duration::from_micros(50);

/// Threads that share work: the one that calls, and helpers that sleep in between.
#[derive(Debug)]
pub struct Team {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
}

/// What members of a team know of each other.
struct Shared {
    /// Which piece of work this is, in the upper half, so that no two are taken for each other; in the lower, how many of
    /// its parts nobody has taken yet.
    open: AtomicU64,
    /// Written by the caller while no part is open or being done.
    work: UnsafeCell<Work>,
    /// How many parts are done.
    done: AtomicUsize,
    /// Whether the caller sleeps until all are done, and who that is.
    caller_sleeps: AtomicBool,
    caller: Mutex<Option<Thread>>,
    /// What a part panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    ends: AtomicBool,
}

/// A piece of work: does a part (the second number) as a member (the first).
type Call = dyn Fn(usize, usize) + Sync;

#[derive(Clone, Copy)]
struct Work {
    call: *const Call,
    parts: usize,
}

// SAFETY: `work` is the only field that is not `Sync` by itself. The caller writes it while no part is open or being done, and
// then opens parts with a release; members read it after taking a part with an acquire, and before they say that it is done.
unsafe impl Sync for Shared {}

// SAFETY: as above; what `call` points to is `Sync`.
unsafe impl Send for Shared {}

/// Where items of a slice lie, of which every thread takes others.
struct Items<T>(*mut T);

// SAFETY: threads get different items, each exclusively, as if it had been sent to them.
unsafe impl<T: Send> Sync for Items<T> {}

impl<T> Items<T> {
    /// # Safety
    /// There is such an item, and nobody else has it.
    #[allow(clippy::mut_from_ref)]
    unsafe fn get(&self, index: usize) -> &mut T {
        // SAFETY: the caller's promise.
        unsafe { &mut *self.0.add(index) }
    }
}

impl Team {
    /// A team of so many members, at least one; the caller is one of them.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn new(members: usize) -> io::Result<Self> {
        let nothing: &Call = &|_, _| ();
        let shared = Arc::new(Shared {
            open: AtomicU64::new(0),
            work: UnsafeCell::new(Work { call: nothing, parts: 0 }),
            done: AtomicUsize::new(0),
            caller_sleeps: AtomicBool::new(false),
            caller: Mutex::default(),
            panic: Mutex::default(),
            ends: AtomicBool::new(false),
        });
        // Made one by one into the team, so that those there are end if one cannot be had.
        let mut team = Self { shared, helpers: Vec::new() };
        for member in 1..members {
            let shared = Arc::clone(&team.shared);
            let helper = thread::Builder::new().name(format!("helper {member}")).spawn(move || shared.help(member))?;
            team.helpers.push(helper);
        }
        Ok(team)
    }

    /// How many members it has.
    #[must_use]
    pub fn members(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Does every part once, each by whichever member is free, in their order; returns when all are done. Each member has
    /// an item of `members` to itself.
    ///
    /// # Panics
    /// When there are fewer items than members, and with what a part panics with, after all others are done.
    pub fn share<M: Send, P: Send>(
        &mut self,
        members: &mut [M],
        parts: &mut [P],
        work: impl Fn(&mut M, &mut P) + Sync,
    ) {
        assert!(members.len() >= self.members(), "{} items for {} members", members.len(), self.members());
        if self.helpers.is_empty() || parts.len() < 2 {
            parts.iter_mut().for_each(|part| work(&mut members[0], part));
            return;
        }
        let (count, members, parts) = (parts.len(), Items(members.as_mut_ptr()), Items(parts.as_mut_ptr()));
        let (members, parts) = (&members, &parts);
        // SAFETY: a member is one thread, which does one part at a time; each part is taken once; there are so many of both.
        let call = |member: usize, part: usize| unsafe { work(members.get(member), parts.get(part)) };
        self.run(&call, count);
    }

    fn run(&mut self, call: &(dyn Fn(usize, usize) + Sync), parts: usize) {
        let shared = &*self.shared;
        let left = u32::try_from(parts).expect("fewer parts than 2³²");
        // SAFETY: only the lifetime changes, and nothing is called any more when this function returns: it waits for all
        // parts, whatever happens in them.
        let call = unsafe { std::mem::transmute::<*const (dyn Fn(usize, usize) + Sync + '_), *const Call>(call) };
        // SAFETY: all parts of the last work are done, and none is open.
        unsafe { *shared.work.get() = Work { call, parts } };
        shared.done.store(0, Ordering::Relaxed);
        let turn = (shared.open.load(Ordering::Relaxed) >> 32) + 1;
        shared.open.store(turn << 32 | u64::from(left), Ordering::SeqCst);
        // Costs next to nothing for those who do not sleep.
        self.helpers.iter().take(parts - 1).for_each(|helper| helper.thread().unpark());
        while shared.does_one(0) {}
        shared.wait_for(parts);
        if let Some(panic) = lock(&shared.panic).take() {
            resume_unwind(panic);
        }
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::SeqCst);
        for helper in self.helpers.drain(..) {
            helper.thread().unpark();
            // It has caught every panic.
            let _ = helper.join();
        }
    }
}

impl Shared {
    /// What a helper does all its life.
    fn help(&self, member: usize) {
        let mut idle = Instant::now();
        while !self.ends.load(Ordering::SeqCst) {
            if self.does_one(member) {
                idle = Instant::now();
            } else if idle.elapsed() < SPIN {
                spin_loop();
            } else {
                // Returns at once when it was woken in between.
                thread::park();
                idle = Instant::now();
            }
        }
    }

    /// Takes a part and does it, if one is open.
    fn does_one(&self, member: usize) -> bool {
        let mut open = self.open.load(Ordering::SeqCst);
        let left = loop {
            let left = open & u64::from(u32::MAX);
            if left == 0 {
                return false;
            }
            match self.open.compare_exchange_weak(open, open - 1, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => break left as usize,
                Err(now) => open = now,
            }
        };
        // SAFETY: a part of this work is taken and not done, so the caller keeps it as it is.
        let work = unsafe { *self.work.get() };
        // SAFETY: as above; the caller waits until this part is done, so what it refers to lives.
        let call = unsafe { &*work.call };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| call(member, work.parts - left))) {
            *lock(&self.panic) = Some(panic);
        }
        if self.done.fetch_add(1, Ordering::SeqCst) + 1 == work.parts && self.caller_sleeps.load(Ordering::SeqCst) {
            lock(&self.caller).iter().for_each(Thread::unpark);
        }
        true
    }

    fn wait_for(&self, parts: usize) {
        let is_done = || self.done.load(Ordering::SeqCst) == parts;
        let begun = Instant::now();
        while begun.elapsed() < SPIN {
            if is_done() {
                return;
            }
            spin_loop();
        }
        *lock(&self.caller) = Some(thread::current());
        self.caller_sleeps.store(true, Ordering::SeqCst);
        while !is_done() {
            thread::park();
        }
        self.caller_sleeps.store(false, Ordering::SeqCst);
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

/// Nothing is left half done where a lock is held.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
