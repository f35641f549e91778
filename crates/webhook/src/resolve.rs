//! How a host's addresses are found.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, ToSocketAddrs as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::{
    FutureExt as _,
    future::{BoxFuture, Shared, WeakShared},
};
use tokio::{sync::Semaphore, time::timeout};

/// How many look-ups of the system's run at a time, for hosts that were found of late and for all others each. They hold a
/// thread, cannot be stopped, and may take longer than an attempt, so without a bound a dead name server would use up the
/// threads that the rest of the process needs; and with one bound for all, unheard-of hosts would keep the good ones waiting.
const LOOK_UPS: usize = 32;

/// How long a look-up waits for its turn.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long a host that was found counts as found of late, and how many are remembered.
const REMEMBERED_FOR: Duration = Duration::from_secs(600);
const MOST_REMEMBERED: usize = 4096;

/// Finds the addresses of a host. What it answers is vetted and only what was vetted is connected to, so it need not be
/// trusted.
pub trait Resolve: Send + Sync + 'static {
    /// All addresses of `host`, in the order to try them. [`io::ErrorKind::ResourceBusy`] says that nobody was asked,
    /// because too many look-ups are under way.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

type Found = Result<Vec<IpAddr>, io::ErrorKind>;
type LookUp = Shared<BoxFuture<'static, Found>>;

/// Asks the operating system, which knows the hosts file, the search domains and the name servers. Whoever asks for the same
/// host at the same time shares one look-up.
#[derive(Clone, Default)]
pub struct SystemResolver(Arc<Asking>);

struct Asking {
    under_way: Mutex<HashMap<String, WeakShared<BoxFuture<'static, Found>>>>,
    found: Mutex<HashMap<String, Instant>>,
    room_for_found: Arc<Semaphore>,
    room_for_others: Arc<Semaphore>,
}

impl Default for Asking {
    fn default() -> Self {
        let room = || Arc::new(Semaphore::new(LOOK_UPS));
        Self { under_way: Mutex::default(), found: Mutex::default(), room_for_found: room(), room_for_others: room() }
    }
}

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(self.join(host).map(|found| found.map_err(io::Error::from)))
    }
}

impl SystemResolver {
    /// The look-up of this host: the one under way, or a new one.
    fn join(&self, host: &str) -> LookUp {
        let mut under_way = lock(&self.0.under_way);
        let known = under_way.get(host).and_then(WeakShared::upgrade);
        // One that has ended is held by those alone who have not taken its result yet.
        if let Some(look_up) = known.filter(|look_up| look_up.peek().is_none()) {
            return look_up;
        }
        under_way.retain(|_, look_up| look_up.upgrade().is_some());
        let look_up = Arc::clone(&self.0).look_up(host.to_owned()).boxed().shared();
        under_way.extend(look_up.downgrade().map(|weak| (host.to_owned(), weak)));
        look_up
    }
}

impl Asking {
    async fn look_up(self: Arc<Self>, host: String) -> Found {
        let was_found = lock(&self.found).get(&host).is_some_and(|at| at.elapsed() < REMEMBERED_FOR);
        let room = if was_found { &self.room_for_found } else { &self.room_for_others };
        let room = timeout(PATIENCE, Arc::clone(room).acquire_owned()).await;
        let Ok(Ok(room)) = room else { return Err(io::ErrorKind::ResourceBusy) };
        let asked = host.clone();
        let ask = move || {
            // Held until the look-up ends, not until somebody stops waiting for it.
            let _room = room;
            let addresses = (asked.as_str(), 0).to_socket_addrs().map_err(|error| error.kind())?;
            Ok(addresses.map(|address| address.ip()).collect())
        };
        let found = tokio::task::spawn_blocking(ask).await.unwrap_or(Err(io::ErrorKind::Other));
        if found.is_ok() {
            self.remember(host);
        }
        found
    }

    fn remember(&self, host: String) {
        let mut found = lock(&self.found);
        if found.len() >= MOST_REMEMBERED {
            found.retain(|_, at| at.elapsed() < REMEMBERED_FOR);
        }
        if found.len() >= MOST_REMEMBERED {
            found.clear();
        }
        found.insert(host, Instant::now());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_look_up_serves_all_who_ask_at_once() {
        let resolver = SystemResolver::default();
        let (first, second) = (resolver.join("localhost"), resolver.join("localhost"));
        assert!(first.ptr_eq(&second), "one is under way");
        let (one, other) = tokio::join!(first, second);
        assert!(one == other && one.expect("the hosts file has it").iter().all(IpAddr::is_loopback));
        let later = resolver.resolve("localhost").await.expect("asked again");
        assert!(!later.is_empty() && lock(&resolver.0.found).contains_key("localhost"));
    }

    #[tokio::test]
    async fn hosts_that_were_found_do_not_wait_behind_others() {
        let resolver = SystemResolver::default();
        resolver.resolve("localhost").await.expect("the hosts file has it");
        let others = Arc::clone(&resolver.0.room_for_others);
        let _all = others.acquire_many(u32::try_from(LOOK_UPS).expect("few")).await.expect("it is open");
        assert!(resolver.resolve("localhost").await.is_ok());
        let unheard_of = resolver.resolve("localhost.localdomain").await;
        assert_eq!(unheard_of.expect_err("no room").kind(), io::ErrorKind::ResourceBusy);
    }
}
