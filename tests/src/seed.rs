//! The seed of a run: everything a test chooses at random follows from it.

/// `AUGUR_TEST_SEED`, or a new one; printed, so that a failing run can be repeated.
///
/// # Panics
/// When `AUGUR_TEST_SEED` is no number.
#[must_use]
#[allow(clippy::print_stderr, reason = "the test runner shows it when the test fails")]
pub fn seed() -> u64 {
    let seed = match std::env::var("AUGUR_TEST_SEED") {
        Ok(text) => text.parse().expect("AUGUR_TEST_SEED is a number"),
        Err(_) => rand::random_range(0..1_000_000_000),
    };
    eprintln!("seed: repeat with AUGUR_TEST_SEED={seed}");
    seed
}
