//! Free ports for servers.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, TcpListener},
    sync::{Mutex, PoisonError},
};

/// Below the ports that Linux gives to outgoing connections (`ip_local_port_range` begins at 32768), so that nobody takes
/// a server's port while it is stopped for a while; above those of well-known services, where no webhook may go.
const PORTS: std::ops::Range<u16> = 29_000..32_000;

static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

/// A free loopback port, never given to anyone in this process before.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_port() -> u16 {
    let mut given = GIVEN.lock().unwrap_or_else(PoisonError::into_inner);
    let tries = std::iter::repeat_with(|| rand::random_range(PORTS)).take(10_000);
    tries
        .into_iter()
        .find(|port| !given.contains(port) && TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .inspect(|port| {
            given.insert(*port);
        })
        .expect("a free port")
}

/// Whether a server that ended with this log found its port taken: between our look and its own, another program came.
pub(crate) fn was_taken(log: &str) -> bool {
    log.contains("Address already in use")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_never_given_twice() {
        let ports: Vec<u16> = (0..100).map(|_| free_port()).collect();
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), ports.len());
        assert!(ports.iter().all(|port| PORTS.contains(port)));
    }
}
