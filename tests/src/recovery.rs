//! How fast a dead worker's predictions run again, and who did what: read from the audit, on the database's clock.

use uuid::Uuid;

use crate::{Cluster, audit};

/// A worker killed while it held predictions.
#[derive(Clone, Debug)]
pub struct Kill {
    /// Who it was.
    worker: Uuid,
    /// The database's time just before, in seconds.
    moment: f64,
    /// What it held, by the database, just after.
    held: Vec<Uuid>,
}

impl Cluster {
    /// SIGKILL for a worker, noting what it takes with it.
    ///
    /// # Panics
    /// When Postgres does not answer.
    pub async fn kill_worker_noting(&self, index: usize) -> Kill {
        let moment = audit::now(&self.database).await;
        self.kill_worker(index).await;
        let worker = self.worker_ids[index];
        Kill { worker, moment, held: audit::held_by(&self.database, worker).await }
    }

    /// The seconds from a kill until each prediction that died with it was claimed by another worker; call it once all are finished.
    /// A completion that was under way at the kill may have arrived all the same; that prediction is left out.
    ///
    /// # Panics
    /// When Postgres does not answer.
    pub async fn seconds_to_recover(&self, kill: &Kill) -> Vec<f64> {
        audit::seconds_until_claimed(&self.database, &kill.held, kill.worker, kill.moment).await
    }

    /// How many predictions were charged for what happened to their workers: a suspicion, a crash or a retry.
    ///
    /// # Panics
    /// When Postgres does not answer.
    pub async fn charged(&self) -> i64 {
        audit::charged(&self.database).await
    }

    /// How many predictions each of the present workers has finished.
    ///
    /// # Panics
    /// When Postgres does not answer.
    pub async fn finished_by_each(&self) -> Vec<i64> {
        let finished = audit::finished_by(&self.database).await;
        self.worker_ids.iter().map(|worker| finished.get(worker).copied().unwrap_or(0)).collect()
    }
}

/// The value below or at which this share of all values lies (nearest rank).
///
/// # Panics
/// When there are no values.
#[must_use]
pub fn percentile(values: &[f64], share: f64) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
    let rank = (share * values.len() as f64).ceil() as usize;
    values[rank.clamp(1, values.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(
            (percentile(&values, 0.5), percentile(&values, 0.99), percentile(&values, 1.0)),
            (100.0, 198.0, 200.0)
        );
        assert_eq!(percentile(&[7.0], 0.99), 7.0);
    }
}
