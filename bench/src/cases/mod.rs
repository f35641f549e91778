//! The cases: what can be measured, one file each.

mod deliveries;
mod encoder;
mod expiry;
mod first;
mod growth;
mod latency;
mod limit;
mod memory;
mod overload;
mod peers;
mod pool;
mod storm;
mod waiting;

use futures::future::BoxFuture;

use crate::{numbers::Numbers, say};

/// One thing that can be measured.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// For people, in the list of cases.
    pub(crate) about: &'static str,
    /// Takes how many runs there are to be, and the most predictions of one measurement.
    pub(crate) measure: fn(usize, usize) -> BoxFuture<'static, Measured>,
}

/// What a case found.
pub(crate) struct Measured {
    pub(crate) runs: Vec<Numbers>,
    /// What could not be measured, and why.
    pub(crate) skipped: Vec<String>,
}

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "storm",
        about: "echo predictions as fast as 64 and 256 connections submit them, one request each, until all are stored; by an API and
               a worker, and by augur serve, on the same servers",
        measure: |runs, most| Box::pin(repeat(runs, Vec::new(), move || storm::once(most))),
    },
    Case {
        name: "waiting",
        about: "the same of 16, 64 and 256 callers who wait for each result, and submit again once they know it",
        measure: |runs, most| Box::pin(repeat(runs, Vec::new(), move || waiting::once(most))),
    },
    Case {
        name: "limit",
        about: "storms beside what Postgres and Redis do with the same rows in bare statements and pipelines",
        measure: |runs, most| Box::pin(repeat(runs, Vec::new(), move || limit::once(most))),
    },
    Case {
        name: "latency",
        about: "from submission to known result at low load, by each way of getting to know it; starts of programs",
        measure: |runs, _| Box::pin(latency::measure(runs)),
    },
    Case {
        name: "pool",
        about: "1 to 32 workers with a model that takes 20 ms",
        measure: |runs, most| Box::pin(repeat(runs, Vec::new(), move || pool::once(most))),
    },
    Case {
        name: "growth",
        about: "requests and claims on stores with 10^4 to 10^7 finished predictions (some 20 GB of disk, and a quarter of an
               hour to fill), and with a million waiting ones",
        measure: |runs, most| Box::pin(growth::measure(runs, most)),
    },
    Case {
        name: "overload",
        about: "forty times what a worker can do, for ten minutes: what is let in, what is refused, and the memory of everything",
        measure: |runs, most| Box::pin(repeat(runs, Vec::new(), move || overload::once(most))),
    },
    Case {
        name: "expiry",
        about: "records that have expired, removed by one worker",
        measure: |runs, most| Box::pin(repeat(runs, Vec::new(), move || expiry::once(most))),
    },
    Case {
        name: "peers",
        about: "the recipes in bench/peers beside ours: the same storm, the same low load",
        measure: |runs, most| Box::pin(peers::measure(runs, most)),
    },
    Case {
        name: "encoder",
        about: "texts of 4 to 256 tokens through the whole service, through its engine alone, and through Flask, Celery and ONNX
               Runtime; in f32, bf16 and int8",
        measure: |runs, most| Box::pin(encoder::measure(runs, most)),
    },
    Case {
        name: "first",
        about: "from exec to the first embedding, beside Python with ONNX Runtime; a worker's memory with the encoder; a small
               network alone in the engine",
        measure: |runs, _| Box::pin(first::measure(runs)),
    },
    Case {
        name: "deliveries",
        about: "webhooks per second, how long after its end a prediction's webhook arrives, and a sender's memory
               beside receivers that are dead or slow",
        measure: |runs, _| Box::pin(repeat(runs, Vec::new(), deliveries::once)),
    },
];

/// Measures so many times. `skipped`: what could not be measured.
async fn repeat<F: Future<Output = Numbers>>(runs: usize, skipped: Vec<String>, once: impl Fn() -> F) -> Measured {
    let mut all = Vec::new();
    for run in 1..=runs {
        let numbers = once().await;
        say_run(run, &numbers);
        all.push(numbers);
    }
    Measured { runs: all, skipped }
}

fn say_run(run: usize, numbers: &Numbers) {
    say(&format!("run {run}:"));
    numbers.iter().for_each(|(what, value)| say(&format!("  {what}: {value:.3}")));
}
