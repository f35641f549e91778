//! The verdict on a run: everything is read back, through the API and from the database, and compared with the journal.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, stream};
use prediction::Status;
use serde_json::Value;
use uuid::Uuid;

use crate::{Cluster, Journal, audit};

/// Requests under way at once while everything is read back.
const CONCURRENCY: usize = 16;

/// What came of the predictions of a journal. In Jepsen's words for queues: lost, unexpected, and duplicated results.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Accepted, but unknown to the API or the database now, or not terminal.
    pub lost: Vec<Uuid>,
    /// Not succeeded with the output that was expected, or told differently by API and database.
    pub wrong: Vec<String>,
    /// Stored, but under no id that a sender was told: requests that made more than one prediction.
    pub unexpected: Vec<Uuid>,
    /// Claims beyond each prediction's first one: runs that faults cost.
    pub reruns: i64,
    /// Completions that the fence refused, as the API tells.
    pub stale_completions: u64,
    findings: audit::Findings,
}

impl Cluster {
    /// Waits until every prediction is finished, then reads everything back.
    ///
    /// # Panics
    /// When predictions are stuck, or the API or Postgres does not answer.
    pub async fn verdict(&self, journal: &Journal) -> Verdict {
        self.until_finished().await;
        let told = self.read_back(journal).await;
        let stored = audit::statuses(&self.database).await;
        let findings = audit::findings(&self.database).await;

        let (mut lost, mut wrong) = (Vec::new(), Vec::new());
        for entry in &journal.entries {
            let object = &told[&entry.id];
            let status = stored.get(&entry.id);
            if object.is_none() || !status.is_some_and(|status| status.is_terminal()) {
                lost.push(entry.id);
            }
            if let (Some(object), Some(status)) = (object, status)
                && (*status != Status::Succeeded
                    || object["status"] != Status::Succeeded.as_str()
                    || object["output"] != entry.expected)
            {
                wrong.push(format!("{} ({status}) should have the output {}: {object}", entry.id, entry.expected));
            }
        }
        let unexpected = stored.into_keys().filter(|id| !told.contains_key(id)).collect();
        let stale_completions = self.stale_completions().await;
        Verdict { lost, wrong, unexpected, reruns: findings.reruns, stale_completions, findings }
    }

    async fn read_back(&self, journal: &Journal) -> BTreeMap<Uuid, Option<Value>> {
        let objects = stream::iter(&journal.entries).map(async |entry| {
            let (status, object) = self.get(&format!("/v1/predictions/{}", entry.id)).await;
            (entry.id, (status == 200).then_some(object))
        });
        objects.buffer_unordered(CONCURRENCY).collect().await
    }
}

impl Verdict {
    /// What is amiss: something lost, wrong or unexpected, a prediction that did not end once with one outcome, a change to what
    /// was over. Empty when all is well.
    #[must_use]
    pub fn faults(&self, journal: &Journal, count: u32) -> Vec<String> {
        let ids: BTreeSet<Uuid> = journal.entries.iter().map(|entry| entry.id).collect();
        let findings = self.findings;
        let sets =
            [("lost", texts(&self.lost)), ("wrong", self.wrong.clone()), ("unexpected", texts(&self.unexpected))];
        let counts = [
            ("requests without a prediction of their own", i64::from(count) - ids.len() as i64),
            ("changes of what was terminal", findings.changed_terminal),
            ("predictions that did not end exactly once", findings.not_ended_once),
            ("predictions without exactly one outcome", findings.not_one_outcome),
            ("deletions", findings.deleted),
        ];
        let sets = sets.into_iter().filter(|(_, members)| !members.is_empty());
        let counts = counts.into_iter().filter(|(_, count)| *count != 0);
        sets.map(|(what, members)| format!("{} {what}: {:#?}", members.len(), &members[..members.len().min(3)]))
            .chain(counts.map(|(what, count)| format!("{count} {what}")))
            .collect()
    }

    /// Asserts that nothing is amiss, and prints what it cost.
    ///
    /// # Panics
    /// When there are [`Verdict::faults`]; says which.
    #[allow(clippy::print_stderr, reason = "the test runner shows it when the test fails")]
    pub fn assert_sound(&self, journal: &Journal, count: u32) {
        eprintln!(
            "{} accepted ({} requests without an answer, {} refused, {} recovered); {} reruns, {} stale completions",
            journal.entries.len(),
            journal.indeterminate(),
            journal.refused(),
            journal.recovered(),
            self.reruns,
            self.stale_completions
        );
        let faults = self.faults(journal, count);
        assert!(faults.is_empty(), "{}", faults.join("\n"));
    }
}

fn texts(ids: &[Uuid]) -> Vec<String> {
    ids.iter().map(Uuid::to_string).collect()
}
