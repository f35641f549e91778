//! Packed weights from one start to the next: a matrix of what an arena held is the matrix that was packed.

#![cfg(target_os = "linux")]

mod reference;

use std::{
    fs::{self, File},
    io::Write as _,
};

use kernels::{Activation, Arena, Epilogue, KEPT_ALIGNMENT, Kept, PackedMatrix, Precision, Rows, RowsMut, Scratch};
use reference::{Random, variants};

/// Maps these bytes, and zeros after them, from a file that has no name.
fn kept(bytes: &[u8]) -> Kept {
    let path = std::env::temp_dir().join(format!("kept-matrices-{}", std::process::id()));
    let mut file = File::options().create_new(true).read(true).write(true).open(&path).expect("a file");
    fs::remove_file(path).expect("it is there");
    let length = bytes.len().next_multiple_of(KEPT_ALIGNMENT);
    file.write_all(bytes).expect("room for it");
    file.set_len(length as u64).expect("room for it");
    Kept::map(&file, 0, length).expect("it can be mapped")
}

fn product(matrix: &PackedMatrix, x: &[f32]) -> Vec<u32> {
    let mut y = vec![0.0; matrix.outputs()];
    let to = RowsMut::new(&mut y, 1, matrix.outputs(), matrix.outputs());
    let epilogue = Epilogue { activation: Activation::None, residual: None };
    let x = Rows::new(x, 1, matrix.inputs(), matrix.inputs());
    matrix.multiply(x, 0..matrix.outputs(), epilogue, to, &mut Scratch::default());
    y.into_iter().map(f32::to_bits).collect()
}

#[test]
#[allow(clippy::print_stderr)]
fn a_matrix_of_what_was_kept_is_the_one_that_was_packed() {
    if !Kept::is_possible() {
        eprintln!("NOT TESTED: this system is not Linux 5.14 or later, or an emulator of it");
        return;
    }
    let mut random = Random::new();
    for cpu in variants() {
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let arena = Arena::new(1 << 20);
            let mut all = Vec::new();
            for (outputs, inputs) in [(1, 1), (5, 300), (64, 192), (97, 33), (0, 3), (3, 0)] {
                let (weights, bias) = (random.numbers(outputs * inputs), random.numbers(outputs));
                let rows = Rows::new(&weights, outputs, inputs, inputs);
                let matrix = PackedMatrix::new_in(Some(&arena), cpu, precision, rows, Some(&bias));
                let places = matrix.places(&arena).expect("there was room");
                assert!(matrix.places(&Arena::new(1)).is_none() && matrix.clone().places(&arena).is_none());
                all.push((matrix, places, bias, random.numbers(inputs)));
            }
            let end = all.iter().flat_map(|(_, places, ..)| places).map(|place| place.end).max().expect("some");
            let kept = kept(arena.filled().expect("it has memory").lines(0..end));
            for (matrix, places, bias, x) in &all {
                let again = |places: &[_], inputs| PackedMatrix::kept(&kept, places, cpu, precision, inputs, bias);
                let found = again(places, matrix.inputs()).expect("all is there");
                assert_eq!(product(&found, x), product(matrix, x), "{cpu:?} {precision:?}");
                assert_eq!(found.bytes(), matrix.bytes());
                assert!(found.places(&Arena::new(1)).is_none());
                // Places of other lengths, too few, and outside.
                let moved = |by: usize| places.iter().map(|place| place.start + by..place.end + by).collect::<Vec<_>>();
                if !bias.is_empty() {
                    let longer: Vec<_> = places.iter().map(|place| place.start..place.end + 1).collect();
                    assert!(again(&longer, matrix.inputs()).is_none());
                    assert!(again(&moved(1 << 20), matrix.inputs()).is_none());
                    assert!(again(places, matrix.inputs() + 1000).is_none());
                }
                assert!(again(&places[1..], matrix.inputs()).is_none());
            }
        }
    }
}
