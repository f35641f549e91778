//! How much of the processors each process and its children have used.

use std::{collections::BTreeMap, fs};

use crate::numbers::{Numbers, number};

/// The kernel counts in hundredths of a second for user space, whatever its own tick is (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Processes by what they are to us, each with its children.
pub(crate) type Processes = BTreeMap<String, Vec<u32>>;

/// CPU seconds by process, since each began.
pub(crate) struct Used(BTreeMap<String, f64>);

/// What one process says of itself.
struct Stat {
    parent: u32,
    /// Its own time and that of children that have ended.
    seconds: f64,
}

impl Used {
    /// What these processes, and the present one as the driver, have used until now.
    pub(crate) fn until_now(processes: &Processes) -> Self {
        let stats: BTreeMap<u32, Stat> = fs::read_dir("/proc")
            .expect("processes can be listed")
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            .filter_map(|id| Some((id, stat(id)?)))
            .collect();
        let mut used: BTreeMap<String, f64> = processes
            .iter()
            .map(|(name, ids)| (name.clone(), ids.iter().map(|id| of_tree(&stats, *id)).sum()))
            .collect();
        // Its children are the programs.
        used.insert("the driver".into(), own_seconds(std::process::id()));
        Self(used)
    }

    /// What was used since then for so many predictions in so many seconds.
    pub(crate) fn numbers(&self, before: &Self, prefix: &str, predictions: usize, seconds: f64) -> Numbers {
        let mut numbers = Numbers::new();
        for (name, until) in &self.0 {
            let used = until - before.0[name];
            numbers.insert(format!("{prefix}: CPU of {name}: cores"), used / seconds);
            numbers.insert(format!("{prefix}: CPU of {name}: ms per 1,000"), used * 1e6 / number(predictions));
        }
        numbers
    }
}

/// The process that started this one.
pub(crate) fn parent(id: u32) -> u32 {
    stat(id).expect("it runs").parent
}

fn of_tree(stats: &BTreeMap<u32, Stat>, id: u32) -> f64 {
    let children = stats.iter().filter(|(_, stat)| stat.parent == id).map(|(child, _)| of_tree(stats, *child));
    stats.get(&id).map_or(0.0, |stat| stat.seconds) + children.sum::<f64>()
}

/// None when it has ended. Fields are numbered as in proc(5): 4 its parent, 14 to 17 user and system time, its own and that of
/// children that were waited for.
fn stat(id: u32) -> Option<Stat> {
    let fields = fields(id)?;
    Some(Stat { parent: fields.first()?.parse().ok()?, seconds: seconds(&fields[10..14]) })
}

fn own_seconds(id: u32) -> f64 {
    seconds(&fields(id).expect("it runs")[10..12])
}

fn seconds(fields: &[String]) -> f64 {
    fields.iter().filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS_PER_SECOND
}

/// From the fourth on: the second, a name in parentheses, may contain anything.
fn fields(id: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    Some(text.rsplit_once(") ")?.1.split_whitespace().skip(1).map(str::to_owned).collect())
}
