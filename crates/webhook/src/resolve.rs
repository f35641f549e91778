//! How a host's addresses are found.

use std::{
    io,
    net::{IpAddr, ToSocketAddrs as _},
    sync::Arc,
};

use futures::future::BoxFuture;
use tokio::sync::Semaphore;

/// How many look-ups of the system's run at a time. They hold a thread each, cannot be stopped, and may take longer than an
/// attempt, so without a bound a dead name server would use up the threads that the rest of the process needs.
const LOOK_UPS: usize = 64;

/// Finds the addresses of a host. What it answers is vetted and only what was vetted is connected to, so it need not be
/// trusted.
pub trait Resolve: Send + Sync + 'static {
    /// All addresses of `host`, in the order to try them.
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// Asks the operating system, which knows the hosts file, the search domains and the name servers.
#[derive(Clone, Debug)]
pub struct SystemResolver {
    room: Arc<Semaphore>,
}

impl Default for SystemResolver {
    fn default() -> Self {
        Self { room: Arc::new(Semaphore::new(LOOK_UPS)) }
    }
}

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let room = Arc::clone(&self.room).acquire_owned().await.map_err(io::Error::other)?;
            let host = host.to_owned();
            let look_up = move || {
                // Held until the look-up ends, not until somebody stops waiting for it.
                let _room = room;
                Ok((host.as_str(), 0).to_socket_addrs()?.map(|address| address.ip()).collect())
            };
            tokio::task::spawn_blocking(look_up).await.map_err(io::Error::other)?
        })
    }
}
