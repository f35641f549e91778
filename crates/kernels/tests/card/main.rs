//! The steps of a card: in plain loops against a reference in f64, and on an NVIDIA card against plain loops. `scripts/test-cuda` runs the
//! latter, named `cuda_…`, and fails where there is no card.

mod attention;
mod repeated;

use std::{
    env,
    io::{self, Write},
    thread,
};

use kernels::{Activation, Card, CardIndices, CardNorm, CardRows, Finish, Heads, Precision, WIDEST_HEAD};

/// Numbers of a fixed sequence that looks random, in ±`most`.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % end
    }

    fn some(&mut self, count: usize, most: f32) -> Vec<f32> {
        (0..count).map(|_| (self.below(1 << 20) as f32 / (1 << 19) as f32 - 1.0) * most).collect()
    }
}

/// The first card; `None`, and said so, where there is none and `AUGUR_TEST_CUDA` does not ask for it.
fn card(test: &str) -> Option<Card> {
    #[cfg(feature = "cuda")]
    let found = Card::open(0).map_err(|error| error.to_string());
    #[cfg(not(feature = "cuda"))]
    let found: Result<Card, String> = Err("built without feature cuda".into());
    match found {
        Ok(card) => Some(card),
        Err(reason) => {
            assert!(env::var_os("AUGUR_TEST_CUDA").is_none_or(|value| value.is_empty()), "{test}: {reason}");
            let line = format!("SKIPPED {test}, which needs an NVIDIA card: {reason}\n");
            io::stderr().write_all(line.as_bytes()).expect("standard error");
            None
        }
    }
}

/// The largest difference between two lists of numbers, of the largest number in the second.
fn apart(ours: &[f32], theirs: &[f32]) -> f32 {
    assert_eq!(ours.len(), theirs.len());
    let largest = theirs.iter().map(|number| number.abs()).max_by(f32::total_cmp).unwrap_or_default();
    let apart = ours.iter().zip(theirs).map(|(ours, theirs)| (ours - theirs).abs()).max_by(f32::total_cmp);
    apart.unwrap_or_default() / largest.max(1e-6)
}

/// How far what a card makes in this precision may be from what plain loops make: sums are in another order, and in bf16 that decides now
/// and then which way a number is rounded.
fn most(precision: Precision) -> f32 {
    if precision == Precision::Bf16 { 0.02 } else { 4e-6 }
}

/// What `step` makes on a card, in f32.
fn made(card: &Card, precision: Precision, step: &dyn Fn(&Card, &mut CardRows)) -> Vec<f32> {
    let (mut result, mut wide) = (card.empty(precision), card.empty(Precision::F32));
    step(card, &mut result);
    card.widen(&result, &mut wide).expect("widens");
    card.read(&wide).expect("reads")
}

/// Checks that a card makes of a step what plain loops make of it.
fn check(card: &Card, what: &str, step: impl Fn(&Card, Precision, &mut CardRows)) {
    for precision in [Precision::F32, Precision::Bf16] {
        if card.precision(precision) != precision {
            continue;
        }
        let [ours, plain] =
            [card, &Card::plain()].map(|card| made(card, precision, &|card, to| step(card, precision, to)));
        let apart = apart(&ours, &plain);
        assert!(apart <= most(precision), "{what}, {precision:?}: {apart} from plain loops");
    }
}

fn texts(lengths: &[usize]) -> Vec<u32> {
    let mut begins = vec![0];
    begins.extend(lengths.iter().scan(0, |end, length| {
        *end += *length as u32;
        Some(*end)
    }));
    begins
}

fn indices(card: &Card, lists: &[&[u32]]) -> CardIndices {
    let mut indices = CardIndices::default();
    card.write_indices(lists, &mut indices).expect("writes");
    indices
}

#[test]
fn cuda_products_are_those_of_plain_loops() {
    let Some(card) = card("cuda_products_are_those_of_plain_loops") else { return };
    for (rows, inputs, outputs) in
        [(1, 384, 1152), (3, 33, 5), (257, 64, 1), (512, 384, 384), (31, 1536, 384), (2, 8192, 48)]
    {
        check(&card, &format!("{rows} × {inputs} × {outputs}"), |card, precision, to| {
            let mut numbers = Numbers((rows * inputs + outputs) as u64);
            let x = card.rows(precision, &numbers.some(rows * inputs, 1.0), inputs).expect("room");
            let weights = card.rows(precision, &numbers.some(outputs * inputs, 1.0), inputs).expect("room");
            card.multiply(&x, &weights, to).expect("multiplies");
        });
    }
}

#[test]
fn cuda_every_activation_is_that_of_plain_loops() {
    let Some(card) = card("cuda_every_activation_is_that_of_plain_loops") else { return };
    let by = [Activation::None, Activation::GeluErf, Activation::GeluTanh, Activation::Relu, Activation::Silu]
        .map(Finish::By);
    for finish in by.into_iter().chain([Finish::Tanh]) {
        for (rows, columns) in [(1, 1), (9, 7), (64, 1536), (1000, 513), (7, 8192)] {
            check(&card, &format!("{finish:?} of {rows} × {columns}"), |card, precision, to| {
                let mut numbers = Numbers((rows * columns) as u64);
                *to = card.rows(precision, &numbers.some(rows * columns, 6.0), columns).expect("room");
                let bias = card.rows(precision, &numbers.some(columns, 1.0), columns).expect("room");
                card.finish(to, &bias, finish).expect("finishes");
            });
        }
    }
}

#[test]
fn cuda_norms_are_those_of_plain_loops() {
    let Some(card) = card("cuda_norms_are_those_of_plain_loops") else { return };
    for (rows, columns) in [(1, 32), (5, 384), (130, 768), (33, 33), (2, 4096), (3, 1)] {
        let norm = |card: &Card, precision: Precision, numbers: &mut Numbers| {
            let [weight, bias] =
                [(); 2].map(|()| card.rows(precision, &numbers.some(columns, 2.0), columns).expect("room"));
            CardNorm { weight, bias, epsilon: 1e-5 }
        };
        check(&card, &format!("of sums, {rows} × {columns}"), |card, precision, to| {
            let mut numbers = Numbers((rows * columns) as u64);
            let [x, residual] =
                [(); 2].map(|()| card.rows(precision, &numbers.some(rows * columns, 3.0), columns).expect("room"));
            let bias = card.rows(precision, &numbers.some(columns, 1.0), columns).expect("room");
            card.add_norm(&x, &residual, &bias, &norm(card, precision, &mut numbers), to).expect("adds");
        });
        for tables in 2..=3 {
            check(&card, &format!("of {tables} tables, {rows} × {columns}"), |card, precision, to| {
                let mut numbers = Numbers((rows * columns) as u64);
                let chosen: Vec<Vec<u32>> =
                    (0..tables).map(|_| (0..rows).map(|_| numbers.below(50) as u32).collect()).collect();
                let lists: Vec<&[u32]> = chosen.iter().map(Vec::as_slice).collect();
                let indices = indices(card, &lists);
                let all: Vec<CardRows> = (0..tables)
                    .map(|_| card.rows(precision, &numbers.some(50 * columns, 1.0), columns).expect("room"))
                    .collect();
                let pairs: Vec<_> = all.iter().enumerate().map(|(table, rows)| (rows, indices.part(table))).collect();
                card.embed(&pairs, &norm(card, precision, &mut numbers), to).expect("embeds");
            });
        }
    }
}

#[test]
fn cuda_means_and_firsts_are_those_of_plain_loops() {
    let Some(card) = card("cuda_means_and_firsts_are_those_of_plain_loops") else { return };
    for columns in [1, 32, 33, 384] {
        for is_mean in [true, false] {
            check(&card, &format!("{columns} columns, {is_mean}"), |card, precision, to| {
                let mut numbers = Numbers(columns as u64);
                let x = card.rows(precision, &numbers.some(700 * columns, 1.0), columns).expect("room");
                let begins = indices(card, &[&[1, 2, 3], &texts(&[1, 9, 500, 8, 7, 175])]);
                *to = card.empty(Precision::F32);
                if is_mean {
                    card.means(&x, begins.part(1), to).expect("means");
                } else {
                    card.firsts(&x, begins.part(1), to).expect("firsts");
                }
            });
        }
    }
}

/// Sums of rows that lists choose, each list written as soon as the sums of the one before have begun.
fn chosen(card: &Card) {
    let row = |first: f32| [first, 2.0 * first];
    let table: Vec<f32> = (0..500_u16).flat_map(|index| row(f32::from(index))).collect();
    let table = card.rows(Precision::F32, &table, 2).expect("room");
    let one = |number: f32| card.rows(Precision::F32, &row(number), 2).expect("room");
    let norm = CardNorm { weight: one(1.0), bias: one(0.0), epsilon: 1e-12 };
    let mut indices = CardIndices::default();
    let mut made = Vec::new();
    for round in 1..20_u32 {
        // Of different lengths, so that the lists move too.
        let list: Vec<u32> = (0..round * 1000 % 7001 + 1).map(|place| (place * 7 + round) % 500).collect();
        card.write_indices(&[&list], &mut indices).expect("writes");
        let mut y = card.empty(Precision::F32);
        card.embed(&[(&table, indices.part(0)), (&table, indices.part(0))], &norm, &mut y).expect("embeds");
        made.push((list, y));
    }
    drop(indices);
    for (round, (list, y)) in made.iter().enumerate() {
        let expected: Vec<f32> = list.iter().flat_map(|row| if *row == 0 { [0.0; 2] } else { [-1.0, 2.0] }).collect();
        let apart = apart(&card.read(y).expect("reads"), &expected);
        assert!(apart <= 1e-5, "round {round}: {apart}");
    }
}

#[test]
fn lists_are_replaced_while_steps_are_under_way() {
    chosen(&Card::plain());
}

#[test]
fn cuda_lists_are_replaced_while_steps_are_under_way() {
    if let Some(card) = card("cuda_lists_are_replaced_while_steps_are_under_way") {
        chosen(&card);
    }
}

#[test]
fn cuda_what_is_too_much_is_none_and_leaves_the_card_well() {
    let Some(card) = card("cuda_what_is_too_much_is_none_and_leaves_the_card_well") else { return };
    let mut rows = card.rows(Precision::F32, &[1.0, 2.0], 1).expect("room");
    let error = card.make(&mut rows, 1 << 22, 1 << 22).expect_err("no card has 64 TiB");
    assert!(error.is_out_of_memory, "{error}");
    assert_eq!(rows.count(), 0);
    card.synchronize().expect("the card is well");
    card.make(&mut rows, 2, 3).expect("room");
    assert_eq!(card.read(&rows).expect("reads").len(), 6);
}

#[test]
fn cuda_memory_is_given_back_on_any_thread() {
    let Some(card) = card("cuda_memory_is_given_back_on_any_thread") else { return };
    let mut rows = card.empty(Precision::F32);
    card.make(&mut rows, 1 << 10, 1 << 10).expect("room");
    thread::spawn(move || drop(rows)).join().expect("given back");
    card.synchronize().expect("in order");
    thread::spawn(move || drop(card)).join().expect("ended");
}

#[test]
fn means_and_norms_in_plain_loops_are_as_they_are_told() {
    let card = Card::plain();
    let x = card.rows(Precision::F32, &[1.0, 2.0, 3.0, 6.0, 5.0, 4.0], 2).expect("room");
    let begins = indices(&card, &[&[0, 2, 3]]);
    let read = |step: &dyn Fn(&mut CardRows)| {
        let mut y = card.empty(Precision::F32);
        step(&mut y);
        card.read(&y).expect("reads")
    };
    assert_eq!(read(&|y| card.means(&x, begins.part(0), y).expect("means")), [2.0, 4.0, 5.0, 4.0]);
    assert_eq!(read(&|y| card.firsts(&x, begins.part(0), y).expect("firsts")), [1.0, 2.0, 5.0, 4.0]);
    let one = |numbers: &[f32]| card.rows(Precision::F32, numbers, 2).expect("room");
    let norm = CardNorm { weight: one(&[2.0, 2.0]), bias: one(&[0.5, 0.5]), epsilon: 0.0 };
    let sum = read(&|y| card.add_norm(&x, &x, &one(&[0.0, 1.0]), &norm, y).expect("adds"));
    assert_eq!(sum, [-1.5, 2.5, -1.5, 2.5, 2.5, -1.5]);
    let chosen = indices(&card, &[&[2, 0], &[2, 1]]);
    let embedded = read(&|y| card.embed(&[(&x, chosen.part(0)), (&x, chosen.part(1))], &norm, y).expect("embeds"));
    assert_eq!(embedded, [2.5, -1.5, -1.5, 2.5]);
}

#[test]
fn what_does_not_fit_is_refused() {
    let card = Card::plain();
    let refused = |step: &dyn Fn(&mut CardRows)| {
        let mut y = card.empty(Precision::F32);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| step(&mut y))).is_err()
    };
    let rows =
        |count: usize, columns: usize| card.rows(Precision::F32, &vec![1.0; count * columns], columns).expect("room");
    let (x, one) = (rows(4, 6), rows(1, 6));
    let lists = indices(&card, &[&[0, 4], &[0, 5], &[0, 2, 2, 4], &[0, 1, 4]]);
    let norm = CardNorm { weight: rows(1, 6), bias: rows(1, 6), epsilon: 0.0 };
    assert!(!refused(&|y| card.means(&x, lists.part(0), y).expect("means")));
    assert!(refused(&|y| card.means(&x, lists.part(1), y).expect("means")), "rows that are not there");
    assert!(refused(&|y| card.means(&x, lists.part(2), y).expect("means")), "a text without rows");
    assert!(refused(&|y| card.multiply(&x, &rows(2, 5), y).expect("multiplies")));
    assert!(refused(&|y| card.add_norm(&x, &rows(3, 6), &one, &norm, y).expect("adds")));
    assert!(refused(&|y| card.embed(&[(&x, lists.part(0)), (&x, lists.part(0))], &norm, y).expect("embeds")));
    let heads = |count: usize| Heads { count, by_distance: None };
    assert!(!refused(&|y| card.attention(&x, &one, lists.part(3), heads(2), y).expect("attends")));
    assert!(refused(&|y| card.attention(&x, &one, lists.part(3), heads(3), y).expect("attends")));
    assert!(refused(&|y| card.attention(&x, &x, lists.part(3), heads(2), y).expect("attends")));
    let near = rows(2, 3);
    let near = Heads { count: 2, by_distance: Some(&near) };
    assert!(refused(&|y| card.attention(&x, &one, lists.part(3), near, y).expect("attends")), "too far");
    let wide = rows(2, 3 * (WIDEST_HEAD + 1));
    let bias = rows(1, 3 * (WIDEST_HEAD + 1));
    let begins = indices(&card, &[&[0, 2]]);
    assert!(refused(&|y| card.attention(&wide, &bias, begins.part(0), heads(1), y).expect("attends")));
}
