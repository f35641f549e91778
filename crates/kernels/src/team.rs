//! A few threads that share one piece of work after another: woken once for many of them, because a step of a network takes
//! about as long as it takes to wake a thread. The end of one piece may overlap the beginning of the next, so that nobody waits
//! for whoever does the last part of one.

use std::{
    any::Any,
    cell::{RefCell, UnsafeCell},
    hint::spin_loop,
    io, mem,
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
#[derive(Default)]
struct Shared {
    /// The number of the last piece of work. Held by the caller that does parts: it is member 0, which is one thread at a time.
    last: Mutex<u32>,
    /// Of pieces with even and with odd numbers: so two are under way at most.
    places: [Place; 2],
    ends: AtomicBool,
}

/// Where a piece of work is while it is under way.
#[derive(Default)]
struct Place {
    /// Held by the caller whose piece it is, until all is done.
    taken: Mutex<()>,
    /// The piece's number, in the upper half, by which the older one is told; in the lower, how many of its parts nobody has
    /// taken yet.
    open: AtomicU64,
    /// Written by the caller while no part is open or being done.
    work: UnsafeCell<Option<Work>>,
    /// How many parts are done.
    done: AtomicUsize,
    /// Whether the caller sleeps until all are done, and who that is.
    caller_sleeps: AtomicBool,
    caller: Mutex<Option<Thread>>,
    /// What a part panicked with.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
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
unsafe impl Sync for Place {}

// SAFETY: as above; what `call` points to is `Sync`.
unsafe impl Send for Place {}

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

/// A piece of work under way. Dropped, it waits for all parts, whatever happened meanwhile: they borrow from the caller.
struct UnderWay<'a> {
    place: &'a Place,
    parts: usize,
    /// Whether it is worth looking for the end a while before sleeping.
    spins: bool,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.place.wait_for(self.parts, self.spins);
    }
}

thread_local! {
    /// The teams whose parts this thread is doing, by their addresses: a part may call another team's.
    static WITHIN: RefCell<Vec<usize>> = const { RefCell::new(Vec::new()) };
}

/// A thread that does parts of a team, for as long as this lives.
struct Within;

impl Within {
    fn enter(team: &Shared) -> Self {
        WITHIN.with_borrow_mut(|within| within.push(team.address()));
        Self
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        WITHIN.with_borrow_mut(Vec::pop);
    }
}

impl Team {
    /// A team of so many members, at least one; the caller is one of them.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn new(members: usize) -> io::Result<Self> {
        // Made one by one into the team, so that those there are end if one cannot be had.
        let mut team = Self { shared: Arc::default(), helpers: Vec::new() };
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
    /// an item of `members` to itself. Another caller waits for its turn. A part that calls does its piece alone, on its own thread:
    /// it could only wait for itself. (A part must not have another team's helper call for it.)
    ///
    /// # Panics
    /// When there are fewer items than members, and with what a part panics with, after all others are done.
    pub fn share<M: Send, P: Send>(&self, members: &mut [M], parts: &mut [P], work: impl Fn(&mut M, &mut P) + Sync) {
        self.share_until(members, parts, work, || false);
    }

    /// The same. From when fewer parts are left than there are members, before each part that it would take the caller asks
    /// `leaves` whether to leave them to the others, and then only waits: another caller takes its place, who does parts of both.
    /// So nobody has to wait for the last part while there is more work.
    ///
    /// # Panics
    /// As [`share`](Self::share), and with what `leaves` panics with.
    pub fn share_until<M: Send, P: Send>(
        &self,
        members: &mut [M],
        parts: &mut [P],
        work: impl Fn(&mut M, &mut P) + Sync,
        leaves: impl FnMut() -> bool,
    ) {
        assert!(members.len() >= self.members(), "{} items for {} members", members.len(), self.members());
        if self.helpers.is_empty() || parts.len() < 2 || self.shared.is_within() {
            parts.iter_mut().for_each(|part| work(&mut members[0], part));
            return;
        }
        let (count, members, parts) = (parts.len(), Items(members.as_mut_ptr()), Items(parts.as_mut_ptr()));
        let (members, parts) = (&members, &parts);
        // SAFETY: a member is one thread, which does one part at a time, or whoever holds `last`, which is one caller after the
        // other; each part is taken once; there are so many of both.
        let call = |member: usize, part: usize| unsafe { work(members.get(member), parts.get(part)) };
        self.run(&call, count, leaves);
    }

    /// Does what is open of a piece that its caller has left to the others; returns when every part of it is at least being done, or
    /// at once in a part.
    pub fn help(&self) {
        if self.shared.is_within() {
            return;
        }
        let _last = lock(&self.shared.last);
        let _within = Within::enter(&self.shared);
        while self.shared.does_one(0) {}
    }

    fn run(&self, call: &(dyn Fn(usize, usize) + Sync), parts: usize, mut leaves: impl FnMut() -> bool) {
        let shared = &*self.shared;
        let left = u32::try_from(parts).expect("fewer parts than 2³²");
        // SAFETY: only the lifetime changes, and nothing is called any more when this function returns or unwinds: `UnderWay`
        // waits for all parts, whatever happens in them.
        let call = unsafe { mem::transmute::<*const (dyn Fn(usize, usize) + Sync + '_), *const Call>(call) };
        let mut last = lock(&shared.last);
        *last = last.wrapping_add(1);
        let place = &shared.places[*last as usize % 2];
        let taken = lock(&place.taken);
        // SAFETY: all parts of the piece that was here are done, as who had the place waited for, and none is open.
        unsafe { *place.work.get() = Some(Work { call, parts }) };
        // Of a caller that panicked itself.
        *lock(&place.panic) = None;
        place.done.store(0, Ordering::Relaxed);
        place.open.store(u64::from(*last) << 32 | u64::from(left), Ordering::SeqCst);
        let mut under_way = UnderWay { place, parts, spins: true };
        // Costs next to nothing for those who do not sleep.
        self.helpers.iter().take(parts).for_each(|helper| helper.thread().unpark());
        let within = Within::enter(shared);
        loop {
            if left_in(place.open.load(Ordering::SeqCst)) < self.members() && leaves() {
                // Whoever takes the place of this thread wants its processor, too.
                under_way.spins = false;
                break;
            }
            if !shared.does_one(0) {
                break;
            }
        }
        drop(within);
        drop(last);
        drop(under_way);
        let panic = lock(&place.panic).take();
        drop(taken);
        if let Some(panic) = panic {
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
        let _within = Within::enter(self);
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

    /// Whether the caller is doing one of the team's parts.
    fn is_within(&self) -> bool {
        WITHIN.with_borrow(|within| within.contains(&self.address()))
    }

    /// Tells teams apart.
    fn address(&self) -> usize {
        std::ptr::from_ref(self).addr()
    }

    /// Takes a part and does it, if one is open: of the older piece first.
    fn does_one(&self, member: usize) -> bool {
        let [even, odd] = &self.places;
        let number = |place: &Place| (place.open.load(Ordering::SeqCst) >> 32) as u32;
        let is_even_older = number(even).wrapping_add(1) == number(odd);
        let [older, newer] = if is_even_older { [even, odd] } else { [odd, even] };
        older.does_one(member) || newer.does_one(member)
    }
}

impl Place {
    fn does_one(&self, member: usize) -> bool {
        let mut open = self.open.load(Ordering::SeqCst);
        while left_in(open) > 0 {
            match self.open.compare_exchange_weak(open, open - 1, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(_) => {
                    self.does(member, left_in(open));
                    return true;
                }
                Err(now) => open = now,
            }
        }
        false
    }

    /// Does the part that was taken when so many were left.
    fn does(&self, member: usize, left: usize) {
        // SAFETY: a part of this work is taken and not done, so the caller keeps it as it is.
        let Some(work) = (unsafe { *self.work.get() }) else { return };
        // SAFETY: as above; the caller waits until this part is done, so what it refers to lives.
        let call = unsafe { &*work.call };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| call(member, work.parts - left))) {
            let mut first = lock(&self.panic);
            if first.is_none() {
                *first = Some(panic);
            } else {
                // To drop it could panic too.
                mem::forget(panic);
            }
        }
        if self.done.fetch_add(1, Ordering::SeqCst) + 1 == work.parts && self.caller_sleeps.load(Ordering::SeqCst) {
            lock(&self.caller).iter().for_each(Thread::unpark);
        }
    }

    fn wait_for(&self, parts: usize, spins: bool) {
        let is_done = || self.done.load(Ordering::SeqCst) == parts;
        let begun = Instant::now();
        while spins && begun.elapsed() < SPIN {
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

/// How many parts nobody has taken yet.
fn left_in(open: u64) -> usize {
    (open & u64::from(u32::MAX)) as usize
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
