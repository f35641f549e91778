//! How fast texts become embeddings, on each set of instructions and beside the same network on candle's own operations:
//! `cargo bench -p inference --bench encoder`, and on an NVIDIA card with `--features cuda`. Names of subjects (`candle`, `amx`,
//! `"amx bf16"`, `"avx512 int8"`, `cuda`) leave out all others; `--batches 1,256` says how many texts batches have. `AUGUR_TEST_MODEL_DIR`
//! names the model, by default the one that `scripts/fetch-test-model` fetches. With `--engines` the subjects (all but `candle` and `cuda`; by
//! default the fastest instructions in f32) are each compared with themselves as several engines ([`engines`]). A peer (`peer/mod.rs`) takes part with
//! `--peer "COMMAND"`: for each line `COUNT TOKENS;TOKENS…` (ids with commas between them) it runs that batch so often. Machines are shared and noisy, so subjects take turns, and each figure is a median; read along the rows.
//! Ratios are also given for those turns alone in which nothing else kept the machine's processors from what they can do ([`quiet`]).
#![allow(clippy::print_stdout)]

mod candle;
mod engines;
#[path = "../peer/mod.rs"]
mod peer;
mod quiet;

use std::{
    env,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use inference::{Cpu, Device, DeviceEncoder, Encoder, Isa, Machine, Precision};
use quiet::Probe;

const LENGTHS: [usize; 3] = [16, 64, 256];
const BATCHES: &str = "1,8,32";

/// Turns of each figure, at most and at least.
const TURNS: usize = 201;
const FEWEST: usize = 5;

/// What one turn of a subject lasts, at least, and all turns of a figure, before they are the fewest.
const TURN: Duration = Duration::from_millis(10);
const FIGURE: Duration = Duration::from_secs(45);

/// What a subject runs before each turn without being measured, at least.
const WARM: Duration = Duration::from_millis(50);

/// Between two turns: threads of whoever had the last one look for more work for a while (those of ONNX Runtime for 35 to 42 ms), and
/// would take the next one's processor.
const PAUSE: Duration = Duration::from_millis(80);

/// Runs a batch so many times; how long that took.
type Run = Box<dyn FnMut(&[Vec<u32>], u32) -> Duration>;

struct Subject {
    name: String,
    run: Run,
}

fn main() {
    peer::enter_workspace();
    let dir = env::var_os("AUGUR_TEST_MODEL_DIR").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/models/sentence-transformers/all-MiniLM-L6-v2"),
        PathBuf::from,
    );
    // What cargo adds, `--bench`, is no name.
    let mut arguments = env::args().skip(1).filter(|argument| argument != "--bench");
    let (mut wanted, mut peers, mut batches) = (Vec::new(), Vec::new(), BATCHES.to_owned());
    let mut compares_engines = false;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--peer" => peers.extend(arguments.next()),
            "--batches" => batches = arguments.next().expect("numbers with commas between them"),
            "--engines" => compares_engines = true,
            _ => wanted.push(argument),
        }
    }
    let batches: Vec<usize> = batches.split(',').map(|batch| batch.parse().expect("--batches has numbers")).collect();
    if compares_engines {
        if wanted.is_empty() {
            wanted.push(named(&Cpu::best().isa().to_string(), Precision::F32));
        }
        let Machine { threads, .. } = Machine::default();
        for (name, encoder, cpu) in encoders(&dir, &wanted) {
            engines::compare(&name, &encoder, cpu.isa(), threads, &batches);
        }
        return;
    }
    let mut subjects = subjects(&dir, &wanted);
    subjects.extend(peers.iter().map(|command| {
        let mut peer = peer::Peer::start(command, &dir);
        Subject { name: peer.name.clone(), run: Box::new(move |texts, count| peer.ask(&asked(texts, count))) }
    }));
    let threads = Machine::default().threads;
    println!("{} threads, load before {}", threads, first_word("/proc/loadavg"));
    println!("sentences/s, median of up to {TURNS} turns; × is to {}", subjects[0].name);
    print!("{:>14}", "tokens × batch");
    subjects.iter().for_each(|subject| print!(" {:>18}", subject.name));
    println!();
    let (mut probe, mut medians, mut figures) = (Probe::new(threads.get()), Vec::new(), Vec::new());
    for batch in batches {
        for length in LENGTHS {
            let figure = measure(&mut subjects, &texts(batch, length), &mut probe);
            let rates = rates(&figure).expect("there are turns enough");
            print!("{:>14}", format!("{length} × {batch}"));
            for rate in &rates {
                print!(" {rate:>10.1} {:>7}", format!("{:.2}×", rate / rates[0]));
            }
            println!();
            medians.push(rates);
            figures.push(figure);
        }
    }
    compare("medians of turns", &subjects, peers.len(), &medians);
    let count = |figures: &[Vec<Vec<Turn>>]| figures.iter().flatten().map(Vec::len).sum::<usize>();
    let all = count(&figures);
    figures.iter_mut().flatten().for_each(|turns| turns.retain(|turn| probe.is_quiet(turn.probed)));
    let rows: Vec<Vec<f64>> = figures.iter().filter_map(|figure| rates(figure)).collect();
    let what = format!("medians of quiet turns, {} of {all}, in {} rows", count(&figures), rows.len());
    compare(&what, &subjects, peers.len(), &rows);
    println!("load after {}", first_word("/proc/loadavg"));
}

/// Says how fast subjects are beside the last ones, which are peers. There is a row of rates for each batch.
fn compare(what: &str, subjects: &[Subject], peers: usize, rows: &[Vec<f64>]) {
    println!("\nours ÷ theirs over rows, {what}: geometric mean (least)");
    if rows.is_empty() {
        return;
    }
    let (own, peers) = subjects.split_at(subjects.len() - peers);
    for (ours, subject) in own.iter().enumerate() {
        for (place, peer) in peers.iter().enumerate() {
            let ratios = rows.iter().map(|rates| rates[ours] / rates[own.len() + place]);
            println!("{:>14} ÷ {}: {}", subject.name, peer.name, spread(ratios));
        }
        for precision in ["bf16", "int8"] {
            let is_of = |place: &usize| peers[*place].name.ends_with(precision);
            let places: Vec<usize> = (0..peers.len()).filter(is_of).collect();
            if places.len() > 1 {
                let best = |rates: &Vec<f64>| places.iter().map(|place| rates[own.len() + place]).fold(0.0, f64::max);
                let ratios = rows.iter().map(|rates| rates[ours] / best(rates));
                println!("{:>14} ÷ the best in {precision} of each row: {}", subject.name, spread(ratios));
            }
        }
    }
}

/// The geometric mean of ratios, and the least.
fn spread(ratios: impl Iterator<Item = f64>) -> String {
    let ratios: Vec<f64> = ratios.collect();
    let mean = ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64;
    format!("{:.2} ({:.2})", mean.exp(), ratios.iter().copied().fold(f64::INFINITY, f64::min))
}

fn first_word(file: &str) -> String {
    std::fs::read_to_string(file).unwrap_or_default().split(' ').next().unwrap_or_default().to_owned()
}

/// All but the peers.
fn subjects(dir: &Path, wanted: &[String]) -> Vec<Subject> {
    let mut subjects = Vec::new();
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    if is_wanted("candle") {
        let encoder = candle::Encoder::open(dir).expect("the model loads");
        let run: Run = Box::new(move |texts, count| time(count, || drop(encoder.embed(texts).expect("candle runs"))));
        subjects.push(Subject { name: "candle".into(), run });
    }
    if let Ok(device) = Device::Cuda(0).checked() {
        for precision in [Precision::F32, Precision::Bf16] {
            let name = named("cuda", precision);
            if is_wanted(&name) {
                let machine = Machine { device, ..Machine::default() };
                let encoder = DeviceEncoder::open(dir, machine, precision).expect("the model loads");
                let run: Run = Box::new(move |texts, count| {
                    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
                    time(count, || drop(encoder.embed(&texts).expect("the card runs")))
                });
                subjects.push(Subject { name, run });
            }
        }
    }
    for (name, encoder, _) in encoders(dir, wanted) {
        let run: Run = Box::new(move |texts, count| {
            let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
            time(count, || drop(encoder.embed(&texts, || false, |embedding| embedding)))
        });
        subjects.push(Subject { name, run });
    }
    subjects
}

/// Ours, on the processor's instructions.
fn encoders<'a>(dir: &'a Path, wanted: &'a [String]) -> impl Iterator<Item = (String, Encoder, Cpu)> + 'a {
    let each = |isa: Isa| [Precision::F32, Precision::Bf16, Precision::Int8].map(|precision| (isa, precision));
    Isa::ALL.into_iter().flat_map(each).filter_map(move |(isa, precision)| {
        let name = named(&isa.to_string(), precision);
        let is_wanted = wanted.is_empty() || wanted.contains(&name);
        let cpu = Cpu::with(isa).ok().filter(|cpu| is_wanted && cpu.precision(precision) == precision)?;
        let encoder = Encoder::open(dir, Machine { cpu, ..Machine::default() }, precision).expect("the model loads");
        Some((name, encoder, cpu))
    })
}

/// What a peer is asked.
fn asked(texts: &[Vec<u32>], count: u32) -> String {
    let text = |ids: &Vec<u32>| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",");
    let texts: Vec<String> = texts.iter().map(text).collect();
    format!("{count} {}", texts.join(";"))
}

fn named(computer: &str, precision: Precision) -> String {
    match precision {
        Precision::F32 => computer.to_owned(),
        Precision::Bf16 => format!("{computer} bf16"),
        Precision::Int8 => format!("{computer} int8"),
    }
}

fn time(count: u32, mut job: impl FnMut()) -> Duration {
    let begun = Instant::now();
    (0..count).for_each(|_| job());
    begun.elapsed()
}

/// Tokens of no text, but in the vocabulary; how long they take does not depend on what they are.
fn texts(count: usize, length: usize) -> Vec<Vec<u32>> {
    let token = |text: usize, at: usize| (1000 + (text * 7919 + at * 104_729) % 20_000) as u32;
    (0..count).map(|text| (0..length).map(|at| token(text, at)).collect()).collect()
}

/// One turn of a subject.
struct Turn {
    /// Texts a second.
    rate: f64,
    /// The most seconds that the probe took, before and after.
    probed: f64,
}

/// Texts a second of each subject, the median of its turns, if each has enough of them.
fn rates(figure: &[Vec<Turn>]) -> Option<Vec<f64>> {
    let median = |turns: &Vec<Turn>| {
        let mut rates: Vec<f64> = turns.iter().map(|turn| turn.rate).collect();
        rates.sort_by(f64::total_cmp);
        (rates.len() >= FEWEST).then(|| rates[rates.len() / 2])
    };
    figure.iter().map(median).collect()
}

/// All turns of each subject.
fn measure(subjects: &mut [Subject], texts: &[Vec<u32>], probe: &mut Probe) -> Vec<Vec<Turn>> {
    let counts: Vec<u32> = subjects
        .iter_mut()
        .map(|subject| {
            // The first run makes room.
            (subject.run)(texts, 1);
            let once = (subject.run)(texts, 1).max(Duration::from_micros(10));
            TURN.as_micros().div_ceil(once.as_micros()) as u32
        })
        .collect();
    let mut probed = || {
        thread::sleep(PAUSE);
        probe.seconds()
    };
    let mut figure: Vec<Vec<Turn>> = subjects.iter().map(|_| Vec::with_capacity(TURNS)).collect();
    let (mut before, begun) = (probed(), Instant::now());
    for turn in 0..TURNS {
        if turn >= FEWEST && begun.elapsed() > FIGURE {
            break;
        }
        for ((subject, count), turns) in subjects.iter_mut().zip(&counts).zip(&mut figure) {
            // Processors that had nothing to do are slow at first, and threads may have to be woken.
            (subject.run)(texts, WARM.as_micros().div_ceil(TURN.as_micros()) as u32 * *count);
            let seconds = (subject.run)(texts, *count).as_secs_f64();
            let after = probed();
            let rate = texts.len() as f64 * f64::from(*count) / seconds;
            turns.push(Turn { rate, probed: before.max(after) });
            before = after;
        }
    }
    figure
}
