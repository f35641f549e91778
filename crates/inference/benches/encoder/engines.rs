//! One engine whose threads share each batch, as servers run it, beside as many engines of one thread each as there are threads, which
//! share the packed weights and compute a batch each. And what of a batch is computed that belongs to no text.

use std::{
    iter,
    num::NonZeroUsize,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use inference::{Encoder, Isa, Sharer};
use tokio::sync::mpsc::{Receiver, channel};

/// Texts of one turn of an arrangement, at least; and its batches, at least, so that those who ask at once all have some.
const TEXTS: usize = 64;
const BATCHES: usize = 8;

/// Turns that count; one before them does not.
const TURNS: usize = 9;

/// The shortest and the longest text, in tokens.
const LENGTHS: [f64; 2] = [4.0, 256.0];

/// Batches that servers have under way at most: one that ends and the next.
const UNDER_WAY: usize = 2;

type Batch = Vec<Vec<u32>>;

/// A batch on its way to an engine.
struct Asked {
    batch: usize,
    done: mpsc::Sender<()>,
}

/// What waits for engines, behind a lock that is whose turn it is.
type Line = Mutex<Receiver<Asked>>;

/// How batches come to threads.
enum Arrangement<'a> {
    One(&'a Encoder),
    Several(Vec<Sharer<'a>>),
}

/// What a turn found.
struct Found {
    texts_per_second: f64,
    /// From asking to the answer, half of all batches.
    median: Duration,
}

/// Prints what each arrangement does of the same batches.
pub(crate) fn compare(name: &str, encoder: &Encoder, isa: Isa, threads: NonZeroUsize, batches: &[usize]) {
    let alone = || encoder.beside(NonZeroUsize::MIN).expect("threads");
    let several = iter::repeat_with(alone).take(threads.get()).collect();
    let arrangements = [Arrangement::One(encoder), Arrangement::Several(several)];
    println!("\n{name}: sentences/s and median latency of a batch, medians of {TURNS} turns (least and most)");
    let [one, other] = [format!("one engine of {threads}"), format!("{threads} engines of one")];
    println!("{:>6} {:>6} {:>8} {one:>38} {other:>38} {:>6}", "batch", "asking", "tokens", "÷");
    for size in batches {
        let texts = texts_of(*size);
        let batches: Vec<Batch> = texts.chunks(*size).map(<[_]>::to_vec).collect();
        for asking in [1, 2 * threads.get()] {
            let mut found = [const { Vec::new() }; 2];
            for turn in 0..=TURNS {
                for (arrangement, found) in arrangements.iter().zip(&mut found) {
                    let this = arrangement.turn(&batches, asking);
                    if turn > 0 {
                        found.push(this);
                    }
                }
            }
            let tokens = texts.iter().map(Vec::len).sum::<usize>() as f64 / batches.len() as f64;
            let [first, second] = found.map(said);
            let ratio = second.1 / first.1;
            println!("{size:>6} {asking:>6} {tokens:>8.0} {:>38} {:>38} {ratio:>6.2}", first.0, second.0);
        }
    }
    padding(isa, batches);
}

/// Prints what of a batch belongs to no text: of attention in f32, whose keys are filled up to whole panels, and what would if all texts
/// were as long as the longest of their batch. Rows of products are filled up nowhere but in tiles, where it depends on an engine's groups.
fn padding(isa: Isa, batches: &[usize]) {
    // Two registers.
    let panel = match isa {
        Isa::Amx => return,
        Isa::Avx512 => 32,
        Isa::Avx2 | Isa::Portable => 16,
        Isa::Neon => 8,
    };
    println!(
        "\nin % of the texts' own: {:>24} {:>38}",
        "scores of attention", "rows, if all were as long as the longest"
    );
    for size in batches {
        let texts = texts_of(*size);
        let sum = |of: &dyn Fn(&[Vec<u32>]) -> usize| texts.chunks(*size).map(of).sum::<usize>() as f64;
        let scores =
            |panel: usize| sum(&|batch| batch.iter().map(|text| text.len() * text.len().next_multiple_of(panel)).sum());
        let rows = sum(&|batch| batch.iter().map(Vec::len).sum());
        let padded = sum(&|batch| batch.len() * batch.iter().map(Vec::len).max().unwrap_or_default());
        let more = |all: f64, own: f64| (all / own - 1.0) * 100.0;
        let [scores, rows] = [more(scores(panel), scores(1)), more(padded, rows)];
        println!("{:>23} {scores:>24.1} {rows:>38.1}", format!("batches of {size}"));
    }
}

/// The texts of all batches of a turn.
fn texts_of(size: usize) -> Batch {
    mixed(TEXTS.next_multiple_of(size).max(BATCHES * size))
}

/// So many texts of mixed lengths, evenly over orders of magnitude; the same ones every time.
fn mixed(count: usize) -> Batch {
    // Multiples of the golden ratio fill what is between two whole numbers evenly, however many there are.
    let place = |text: usize| (text as f64 * 0.618_033_988_75).fract();
    let length = |text: usize| (LENGTHS[0] * (LENGTHS[1] / LENGTHS[0]).powf(place(text))).round() as usize;
    (0..count).flat_map(|text| super::texts(1, length(text))).collect()
}

/// Medians of turns, with the least and the most; and that of sentences a second by itself.
fn said(found: Vec<Found>) -> (String, f64) {
    let sorted = |of: &dyn Fn(&Found) -> f64| {
        let mut numbers: Vec<f64> = found.iter().map(of).collect();
        numbers.sort_by(f64::total_cmp);
        [numbers[numbers.len() / 2], numbers[0], numbers[numbers.len() - 1]]
    };
    let [rate, least, most] = sorted(&|found| found.texts_per_second);
    let [median, shortest, longest] = sorted(&|found| found.median.as_secs_f64() * 1e3);
    (format!("{rate:.0} ({least:.0}–{most:.0}), {median:.1} ({shortest:.1}–{longest:.1}) ms"), rate)
}

impl Arrangement<'_> {
    /// Has so many ask for one batch after the other until each was asked for once.
    fn turn(&self, batches: &[Batch], asking: usize) -> Found {
        let views: Vec<Vec<&[u32]>> = batches.iter().map(|texts| texts.iter().map(Vec::as_slice).collect()).collect();
        let (sender, receiver) = channel(asking);
        let (line, idle, next) = (Line::new(receiver), AtomicUsize::new(0), AtomicUsize::new(0));
        let (line, idle, next, views) = (&line, &idle, &next, &views);
        let begun = Instant::now();
        let mut times = thread::scope(|scope| {
            match self {
                Self::One(encoder) => {
                    (0..UNDER_WAY).for_each(|_| drop(scope.spawn(|| drive_in_turn(encoder, line, idle, views))));
                }
                Self::Several(sharers) => {
                    sharers.iter().for_each(|sharer| drop(scope.spawn(|| drive(sharer, line, views))));
                }
            }
            let ask = |sender: tokio::sync::mpsc::Sender<Asked>| {
                let mut times = Vec::new();
                loop {
                    let (batch, asked) = (next.fetch_add(1, Ordering::Relaxed), Instant::now());
                    if batch >= views.len() {
                        return times;
                    }
                    let (done, is_done) = mpsc::channel();
                    sender.blocking_send(Asked { batch, done }).expect("an engine takes it");
                    is_done.recv().expect("an engine answers");
                    times.push(asked.elapsed());
                }
            };
            let askers: Vec<_> = (0..asking)
                .map(|_| {
                    let sender = sender.clone();
                    scope.spawn(move || ask(sender))
                })
                .collect();
            // Engines end with the last who may ask.
            drop(sender);
            askers.into_iter().flat_map(|asker| asker.join().expect("asks to the end")).collect::<Vec<_>>()
        });
        let took = begun.elapsed();
        times.sort_unstable();
        let texts: usize = batches.iter().map(Vec::len).sum();
        Found { texts_per_second: texts as f64 / took.as_secs_f64(), median: times[times.len() / 2] }
    }
}

/// Runs what comes, and passes the turn when threads have nothing left to do and something waits, as servers' engines do.
fn drive_in_turn(encoder: &Encoder, line: &Line, idle: &AtomicUsize, batches: &[Vec<&[u32]>]) {
    loop {
        idle.fetch_add(1, Ordering::SeqCst);
        let mut line = line.lock().expect("nobody panicked");
        idle.fetch_sub(1, Ordering::SeqCst);
        let Some(Asked { batch, done }) = line.blocking_recv() else { return };
        let mut held = Some(line);
        let mut passes = || {
            let passes = idle.load(Ordering::SeqCst) > 0 && held.as_ref().is_some_and(|line| !line.is_empty());
            if passes {
                held = None;
            }
            passes
        };
        drop(encoder.embed_in_turn(&batches[batch], &mut passes));
        done.send(()).expect("who asked waits");
    }
}

/// Runs what comes, whatever others run.
fn drive(engine: &Sharer<'_>, line: &Line, batches: &[Vec<&[u32]>]) {
    loop {
        let next = line.lock().expect("nobody panicked").blocking_recv();
        let Some(Asked { batch, done }) = next else { return };
        drop(engine.embed(&batches[batch]));
        done.send(()).expect("who asked waits");
    }
}
