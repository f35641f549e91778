//! Whether this machine's processors do as much as they can. What shares a core with a virtual processor is not to be seen from within,
//! but makes it up to twice as slow, some instructions more than others, for minutes. So a small product is timed between subjects' turns,
//! on all processors at once.

use std::{
    hint::black_box,
    iter, thread,
    time::{Duration, Instant},
};

use kernels::{Activation, Cpu, Epilogue, PackedMatrix, Precision, Rows, RowsMut, Scratch};

/// The product's rows, inputs and outputs: what a core keeps beside it.
const ROWS: usize = 64;
const INPUTS: usize = 256;
const OUTPUTS: usize = 64;

/// What one timing lasts, about.
const TIMED: Duration = Duration::from_millis(2);

/// A turn is quiet if the product took at most this many times the least that it took in the whole run.
const MOST: f64 = 1.25;

/// A product that is timed.
pub(crate) struct Probe {
    matrix: PackedMatrix,
    x: Vec<f32>,
    threads: usize,
    count: u32,
    /// The least seconds of a product until now.
    least: f64,
}

impl Probe {
    pub(crate) fn new(threads: usize) -> Self {
        let numbers = |count: usize| (0..count).map(|index| (index % 13) as f32 - 6.0).collect::<Vec<_>>();
        let weights = numbers(OUTPUTS * INPUTS);
        let weights = Rows::new(&weights, OUTPUTS, INPUTS, INPUTS);
        let matrix = PackedMatrix::new(Cpu::best(), Precision::F32, weights, None);
        let mut probe = Self { matrix, x: numbers(ROWS * INPUTS), threads, count: 100, least: f64::INFINITY };
        probe.count = (TIMED.as_secs_f64() / probe.seconds()).ceil() as u32;
        probe
    }

    /// Seconds of a product on the slowest processor.
    pub(crate) fn seconds(&mut self) -> f64 {
        let slowest = thread::scope(|scope| {
            let threads: Vec<_> = iter::repeat_with(|| scope.spawn(|| self.time())).take(self.threads).collect();
            threads.into_iter().map(|thread| thread.join().expect("a product ends")).fold(0.0, f64::max)
        });
        self.least = self.least.min(slowest);
        slowest
    }

    /// Whether the processors were quiet when a product took so long.
    pub(crate) fn is_quiet(&self, seconds: f64) -> bool {
        seconds <= MOST * self.least
    }

    fn time(&self) -> f64 {
        let (mut y, mut scratch) = (vec![0.0; ROWS * OUTPUTS], Scratch::default());
        let mut multiply = || {
            let x = Rows::new(black_box(&self.x), ROWS, INPUTS, INPUTS);
            let epilogue = Epilogue { activation: Activation::None, residual: None };
            self.matrix.multiply(x, 0..OUTPUTS, epilogue, RowsMut::new(&mut y, ROWS, OUTPUTS, OUTPUTS), &mut scratch);
        };
        (0..self.count).for_each(|_| multiply());
        let begun = Instant::now();
        (0..self.count).for_each(|_| multiply());
        begun.elapsed().as_secs_f64() / f64::from(self.count)
    }
}
