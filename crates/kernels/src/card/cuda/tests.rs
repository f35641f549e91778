//! Errors that are kept, of what could not tell of them, on an NVIDIA card. `scripts/test-cuda` runs these, and fails where there is none.

use std::{
    env,
    io::{self, Write},
    thread,
};

use super::*;
use crate::card::Card;

/// The first card and its context; nothing, and said so, where there is none and `AUGUR_TEST_CUDA` does not ask for it.
fn card(test: &str) -> Option<(Card, Arc<CudaContext>)> {
    match Cuda::open(0) {
        Ok(cuda) => {
            let context = cuda.stream.context().clone();
            Some((Card { steps: Box::new(cuda) }, context))
        }
        Err(error) => {
            skip(test, &format!("an NVIDIA card: {error}"));
            None
        }
    }
}

/// Says that a test is skipped, past what a passing test's output is caught by; fails where `AUGUR_TEST_CUDA` asks for it.
pub(super) fn skip(test: &str, needs: &str) {
    let line = format!("SKIPPED {test}, which needs {needs}\n");
    assert!(env::var_os("AUGUR_TEST_CUDA").is_none_or(|value| value.is_empty()), "{line}");
    io::stderr().write_all(line.as_bytes()).expect("standard error");
}

fn keep_an_error(context: &CudaContext) {
    context.record_err::<()>(Err(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE)));
}

#[test]
fn cuda_a_recording_that_cannot_be_begun_is_forgotten() {
    let Some((card, context)) = card("cuda_a_recording_that_cannot_be_begun_is_forgotten") else { return };
    let numbers = [1.0, -2.0, 3.0, 4.0];
    let x = card.rows(Precision::Bf16, &numbers, 2).expect("room");
    let mut y = card.empty(Precision::F32);
    for round in 0..9 {
        // Steps are listed and begun, listed and recorded, and listed and begun again because the recording says what was kept.
        if round % 2 == 0 && round > 0 {
            keep_an_error(&context);
        }
        let mut calls = 0;
        let repeated = card.repeat(|| {
            calls += 1;
            card.widen(&x, &mut y).map(|()| true)
        });
        assert_eq!((repeated, calls), (Ok(true), 2), "round {round}");
        assert_eq!(card.read(&y).expect("reads"), numbers, "round {round}");
    }
}

#[test]
fn cuda_an_error_that_was_kept_keeps_nothing_from_being_given_back() {
    let test = "cuda_an_error_that_was_kept_keeps_nothing_from_being_given_back";
    let Some((card, context)) = card(test) else { return };
    let [used, kept] = [(); 2].map(|()| card.rows(Precision::F32, &[1.0; 64], 8).expect("room"));
    keep_an_error(&context);
    thread::spawn(move || drop(used)).join().expect("given back");
    assert!(card.synchronize().is_err_and(|error| error.reason.contains("INVALID_VALUE")), "and it is said later");
    card.synchronize().expect("nothing else was wrong");
    keep_an_error(&context);
    // A card before what is on it, too.
    thread::spawn(move || drop(card)).join().expect("given back");
    context.check_err().expect("the card ended in order");
    thread::spawn(move || drop(kept)).join().expect("given back");
    context.check_err().expect("memory went back in order");
}
