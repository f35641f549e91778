//! The case `peers`: the same storm and the same low load against what people would pick instead, each recipe in `bench/peers`
//! beside ours on the same servers.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Duration};

use super::{Measured, repeat, storm};
use crate::{
    alone::Alone,
    drive::{self, Until, apart},
    low::{Load, Way},
    numbers::Numbers,
    recipe::{Recipe, recipes},
    servers::Servers,
    stage::{Stage, migrated},
    subject::{AUGUR, Dialect, Subject},
};

const CONNECTIONS: usize = 64;
/// Predictions of one peer's storm, and of the one before it that warms everything up.
const COUNT: usize = 6_000;
const WARM_UP: usize = 1_500;
/// Low load.
const RATE: u32 = 20;
const LASTS: Duration = Duration::from_secs(6);

pub(super) async fn measure(runs: usize, most: usize) -> Measured {
    let (recipes, skipped) = installed().await;
    repeat(runs, skipped, || once(&recipes, most)).await
}

async fn once(recipes: &[Recipe], most: usize) -> Numbers {
    let servers = Arc::new(Servers::start().await);
    let mut numbers = ours(&servers, most).await;
    for recipe in recipes {
        numbers.extend(theirs(&servers, recipe, most).await);
    }
    numbers.extend(ratios(&numbers, recipes));
    numbers
}

/// The recipes; and those that cannot be installed, with the reason.
async fn installed() -> (Vec<Recipe>, Vec<String>) {
    let entries = std::fs::read_dir(recipes()).expect("there are recipes");
    let mut directories: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    directories.retain(|directory| directory.join("install").is_file());
    directories.sort();
    let (mut recipes, mut skipped) = (Vec::new(), Vec::new());
    for directory in directories {
        let name = directory.file_name().expect("it has a name").to_string_lossy().into_owned();
        match Recipe::install(directory, name.clone()).await {
            Ok(recipe) => recipes.push(recipe),
            Err(reason) => skipped.push(format!("{name}: {reason}")),
        }
    }
    (recipes, skipped)
}

/// Ours by what they are called: with Redis, an API and a worker; and with everything but Postgres in one process.
const OURS: [&str; 2] = ["augur", "augur in one process"];

async fn ours(servers: &Arc<Servers>, most: usize) -> Numbers {
    let database_url = migrated(servers).await;
    let stage = Stage::on(Arc::clone(servers), &database_url, &[]).await;
    let mut numbers = ours_as(OURS[0], stage.subject(&AUGUR).await, most).await;
    stage.end().await;
    let database_url = migrated(servers).await;
    let alone = Alone::start(Some(&database_url)).await;
    numbers.extend(ours_as(OURS[1], alone.subject(servers, &database_url).await, most).await);
    alone.program.end().await;
    numbers
}

async fn ours_as(name: &str, mut subject: Subject, most: usize) -> Numbers {
    let mut numbers = low(name, &subject, &[Way::LongPoll, Way::Poll]).await;
    subject.clear().await;
    let storm = storm::measure(&mut subject, CONNECTIONS, most).await;
    numbers.extend(storm.into_iter().map(|(what, value)| (format!("{name}, {what}"), value)));
    numbers
}

async fn theirs(servers: &Arc<Servers>, recipe: &Recipe, most: usize) -> Numbers {
    let (service, mut subject) = recipe.start(servers, &[]).await;
    let name = &recipe.name;
    drive::storm(&mut subject, Until::Accepted, CONNECTIONS, WARM_UP.min(most), "warm-up").await;
    subject.clear().await;
    let mut numbers = low(name, &subject, &[Way::Poll]).await;
    subject.clear().await;
    let prefix = format!("{name}, {CONNECTIONS} connections");
    let storm = drive::storm(&mut subject, Until::Accepted, CONNECTIONS, COUNT.min(most), &prefix).await;
    numbers.extend(storm);
    service.end().await;
    numbers
}

/// Nobody is told of webhooks here: peers have none, nor can their callers wait for an answer.
async fn low(name: &str, subject: &Subject, ways: &'static [Way]) -> Numbers {
    let dialect: &'static Dialect = subject.dialect;
    let load = Load { dialect, address: subject.address, ways, per_second: RATE, lasts: LASTS };
    let prefix = format!("{name}, {RATE}/s");
    apart(move || async move { load.measure(None, &prefix).await }).await
}

/// Ours to each, and to the best of them by each number.
fn ratios(numbers: &Numbers, recipes: &[Recipe]) -> Numbers {
    let mut ratios = Numbers::new();
    let stored = format!("{CONNECTIONS} connections: stored/s");
    let submit = format!("{CONNECTIONS} connections: submit p99: ms");
    let (polled, waited) = (format!("{RATE}/s, 2 ms polling, p50: ms"), format!("{RATE}/s, long-poll, p50: ms"));
    // What it is called, our number, theirs, and whether more is better.
    let compared = [
        ("stored/s", &stored, &stored, true),
        ("submit p99", &submit, &submit, false),
        ("submission to result, p50", &waited, &polled, false),
    ];
    for (what, ours, theirs, is_more_better) in compared {
        let theirs: BTreeMap<&str, f64> = recipes
            .iter()
            .map(|recipe| (recipe.name.as_str(), numbers[&format!("{}, {theirs}", recipe.name)]))
            .collect();
        let better = if is_more_better { f64::max } else { f64::min };
        for name in OURS {
            let ours = numbers[&format!("{name}, {ours}")];
            if let Some(best) = theirs.values().copied().reduce(better) {
                ratios.insert(format!("{name} ÷ best peer: {what}"), ours / best);
            }
            ratios.extend(theirs.iter().map(|(peer, theirs)| (format!("{name} ÷ {peer}: {what}"), ours / theirs)));
        }
    }
    ratios
}
