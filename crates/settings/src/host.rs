//! The name of the machine, for people who look at a list of workers.

use std::fs;

/// The host's name as Linux tells it; `unknown` where it does not.
#[must_use]
pub fn host_name() -> String {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "unknown".to_owned() } else { name.to_owned() }
}
