//! The NVIDIA card that tests named `cuda_…` run on. `scripts/test-cuda` runs them, and fails where there is no card.

use std::{
    env,
    io::{self, Write},
};

use super::{Device, Machine};

/// This machine with its first card. Without one the caller's test is skipped, and that is said even where tests' output is kept
/// back; where `AUGUR_TEST_CUDA` is set, it fails.
pub(crate) fn machine(test: &str) -> Option<Machine> {
    match Device::Cuda(0).checked() {
        Ok(device) => Some(Machine { device, ..Machine::default() }),
        Err(error) => {
            assert!(env::var_os("AUGUR_TEST_CUDA").is_none_or(|value| value.is_empty()), "{test}: {error}");
            // Not by eprintln, whose lines are kept back when a test passes.
            let line = format!("SKIPPED {test}, which needs an NVIDIA card: {error}\n");
            io::stderr().write_all(line.as_bytes()).expect("standard error");
            None
        }
    }
}
