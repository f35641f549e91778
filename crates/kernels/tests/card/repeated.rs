//! Steps that are taken again and again, which a card records: what they give, and what is left of them when they panic.

use std::panic::{AssertUnwindSafe, catch_unwind};

use kernels::{Activation, Card, CardIndices, CardRows, Finish, Precision};

use super::{Numbers, card, texts};

/// The means of texts of these lengths, through the same recorded steps again and again, and directly.
fn repeated(card: &Card) {
    let mut numbers = Numbers(7);
    let (mut x, mut bias) = (card.empty(Precision::F32), card.empty(Precision::F32));
    let (mut ours, mut direct) = (card.empty(Precision::F32), card.empty(Precision::F32));
    let mut begins = CardIndices::default();
    for round in 0..12 {
        // Of two sizes in turn, and of what is never the same.
        let lengths: &[usize] = if round % 3 == 0 { &[5, 90] } else { &[numbers.below(50) + 1, 100, 3] };
        x = card.rows(Precision::F32, &numbers.some(200 * 64, 1.0), 64).map(|new| keep(card, &new, x)).expect("room");
        bias = card.rows(Precision::F32, &numbers.some(64, 1.0), 64).map(|new| keep(card, &new, bias)).expect("room");
        card.write_indices(&[&texts(lengths)], &mut begins).expect("writes");
        let steps = |y: &mut CardRows| {
            card.means(&x, begins.part(0), y)?;
            card.finish(y, &bias, Finish::By(Activation::GeluErf))
        };
        assert_eq!(card.repeat(|| steps(&mut ours).map(|()| true)), Ok(true));
        steps(&mut direct).expect("means");
        let [ours, direct] = [&ours, &direct].map(|rows| card.read(rows).expect("reads"));
        assert!(ours == direct, "round {round}");
        assert_eq!(card.repeat(|| Ok(false)), Ok(false));
    }
    let refused = || card.repeat(|| card.means(&x, begins.part(0), &mut card.empty(Precision::Bf16)).map(|()| true));
    assert!(catch_unwind(AssertUnwindSafe(refused)).is_err());
    assert_eq!(card.repeat(|| Ok(true)), Ok(true), "what panicked left nothing behind");
}

/// The same numbers where others were, so that steps are called with the same places.
fn keep(card: &Card, new: &CardRows, mut old: CardRows) -> CardRows {
    card.widen(new, &mut old).expect("copies");
    card.synchronize().expect("copies");
    old
}

#[test]
fn repeated_steps_are_the_same_steps() {
    repeated(&Card::plain());
}

#[test]
fn cuda_repeated_steps_are_the_same_steps() {
    if let Some(card) = card("cuda_repeated_steps_are_the_same_steps") {
        repeated(&card);
    }
}

/// Steps that panic once, at each of their calls in turn: as they are listed, recorded, or begun.
fn panicking(card: &Card) {
    let numbers = [1.0, -2.0, 3.0, 4.0];
    let x = card.rows(Precision::F32, &numbers, 2).expect("room");
    // Each in a place of its own, so that nothing of it is recorded yet.
    let mut kept = Vec::new();
    for guilty in 1..=8 {
        let mut y = card.empty(Precision::F32);
        let (mut calls, mut panics) = (0, 0);
        for _ in 0..10 {
            let repeat = || {
                card.repeat(|| {
                    calls += 1;
                    assert_ne!(calls, guilty, "as the test wants it");
                    card.widen(&x, &mut y).map(|()| true)
                })
            };
            match catch_unwind(AssertUnwindSafe(repeat)) {
                Ok(repeated) => {
                    assert_eq!(repeated, Ok(true));
                    assert_eq!(card.read(&y).expect("reads"), numbers);
                }
                Err(_) => panics += 1,
            }
            card.synchronize().expect("nothing was left behind");
        }
        assert_eq!(panics, 1, "{guilty}");
        kept.push(y);
    }
}

#[test]
fn steps_that_panic_leave_nothing_behind() {
    panicking(&Card::plain());
}

#[test]
fn cuda_steps_that_panic_leave_nothing_behind() {
    if let Some(card) = card("cuda_steps_that_panic_leave_nothing_behind") {
        panicking(&card);
    }
}
