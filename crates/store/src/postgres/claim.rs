//! Claiming and renewing: leases by the database's clock, each under a new epoch.
//!
//! A claim does not wait for the disk (but one that an acceptance makes, in `accept.rs`): it promises nothing to anybody. If a crash of the server takes it back, the prediction waits
//! again, its ticket is queued again, and the run that was lost cannot end what another worker claimed under the same epoch, because
//! every write of a run names its worker too. Whatever is promised later is later in the log, and so takes the claim to the disk with
//! it. The claim of a suspect waits: that it ran alone must be known after its crash, whatever else goes down with it.
//!
//! Rows are found by their ids in an array, not in a join: the planner knows one way only, which reads and locks them in the
//! order of ids, as everybody does who waits for locks. A join it may turn round, and compare a whole table with a batch, once it
//! remembers the table as empty. For the same reason a status is expressed by the columns that constraints tie to it
//! (`worker` with processing, `completed_at` with terminal): the partial indexes have conditions on the status.

use std::{collections::HashSet, time::Duration};

use prediction::{ModelName, PredictionId, Version, WorkerId};
use uuid::Uuid;

use super::{Postgres, on_connection, outbox::tell};
use crate::{
    Claim, Claimed, Run, StoreError,
    numbers::micros,
    renewed_for,
    rows::{self, ClaimedRow, uuids},
};

/// Claims the rows that meet a condition and returns them with their inputs. The first claim is the prediction's start.
/// $1 worker, $2 lease in microseconds. `commit`: what `synchronous_commit` is for this statement's transaction.
macro_rules! claim {
    ($condition:literal, solo: $solo:literal, commit: $commit:literal) => {
        concat!(
            "WITH clock AS MATERIALIZED (
                SELECT clock_timestamp() AS at, set_config('synchronous_commit', ",
            $commit,
            ", true)
            ),
            taken AS (
                UPDATE predictions
                SET status = 1, epoch = epoch + 1, attempts = attempts + 1, worker = $1, solo = ",
            $solo,
            ",
                    lease_until = (SELECT at FROM clock) + $2::bigint * interval '1 microsecond',
                    claimed_at = (SELECT at FROM clock), started_at = COALESCE(started_at, (SELECT at FROM clock))
                WHERE ",
            $condition,
            "
                RETURNING id, epoch, version_id, retries, max_retries, deadline_at, priority, not_before, tenant,
                          webhook_events, attempts, claimed_at
            ),
            told AS (",
            tell!(
                "SELECT id, 1::smallint AS event, tenant, claimed_at AS at
                 FROM taken
                 WHERE attempts = 1 AND webhook_events & 2 <> 0"
            ),
            ")
            SELECT taken.id, epoch, model, version, input, retries, max_retries, webhook_events, attempts,
                   (EXTRACT(EPOCH FROM deadline_at - claimed_at) * 1000000)::bigint AS deadline_micros
            FROM taken
            JOIN versions ON versions.id = version_id
            JOIN inputs ON prediction_id = taken.id
            ORDER BY priority DESC, not_before, taken.id"
        )
    };
}

/// Takes those of the ids in $3 that wait.
const CLAIM: &str = claim!(
    "id = ANY($3) AND worker IS NULL AND completed_at IS NULL AND NOT suspect
     AND not_before <= (SELECT at FROM clock) AND (deadline_at IS NULL OR deadline_at > (SELECT at FROM clock))",
    solo: "false",
    commit: "'off'"
);

/// Takes up to $5 of the versions in $3, $4, and none of $6. Each version's line is read in order from its index, no further than needed.
const CLAIM_NEXT: &str = claim!(
    "id = ANY(ARRAY(
        SELECT line.id
        FROM UNNEST($3::text[], $4::text[]) AS served (model, version)
        JOIN versions USING (model, version)
        CROSS JOIN LATERAL (
            SELECT id, priority, not_before FROM predictions
            WHERE version_id = versions.id AND status = 0 AND NOT suspect
              AND not_before <= (SELECT at FROM clock) AND (deadline_at IS NULL OR deadline_at > (SELECT at FROM clock))
              AND id <> ALL($6)
            ORDER BY priority DESC, not_before, id
            LIMIT $5
            FOR UPDATE SKIP LOCKED
        ) AS line
        ORDER BY line.priority DESC, line.not_before, line.id
        LIMIT $5
    ))",
    solo: "false",
    commit: "'off'"
);

/// Those that the same with $1 to $4 would take.
const NEXT_WAITING: &str = "
    SELECT line.id
    FROM UNNEST($1::text[], $2::text[]) AS served (model, version)
    JOIN versions USING (model, version)
    CROSS JOIN LATERAL (
        SELECT id, priority, not_before FROM predictions
        WHERE version_id = versions.id AND status = 0 AND NOT suspect AND not_before <= (SELECT clock_timestamp())
          AND (deadline_at IS NULL OR deadline_at > (SELECT clock_timestamp())) AND id <> ALL($4)
        ORDER BY priority DESC, not_before, id
        LIMIT $3
    ) AS line
    ORDER BY line.priority DESC, line.not_before, line.id
    LIMIT $3";

/// Takes one suspect of the versions in $3, $4.
const CLAIM_SUSPECT: &str = claim!(
    "id = ANY(ARRAY(
        SELECT suspects.id
        FROM UNNEST($3::text[], $4::text[]) AS served (model, version)
        JOIN versions USING (model, version)
        JOIN predictions AS suspects ON version_id = versions.id
        WHERE status = 0 AND suspect
          AND not_before <= (SELECT at FROM clock) AND (deadline_at IS NULL OR deadline_at > (SELECT at FROM clock))
        ORDER BY priority DESC, not_before, suspects.id
        LIMIT 1
        FOR UPDATE OF suspects SKIP LOCKED
    ))",
    solo: "true",
    commit: "current_setting('synchronous_commit')"
);

const SUSPECTS_AMONG: &str = "
    SELECT id FROM predictions
    WHERE id = ANY($1) AND worker IS NULL AND completed_at IS NULL AND suspect AND not_before <= clock_timestamp()
      AND (deadline_at IS NULL OR deadline_at > clock_timestamp())";

const SUSPECTS_OF: &str = "
    SELECT predictions.id
    FROM UNNEST($1::text[], $2::text[]) AS served (model, version)
    JOIN versions USING (model, version)
    JOIN predictions ON version_id = versions.id
    WHERE status = 0 AND suspect AND not_before <= clock_timestamp()
      AND (deadline_at IS NULL OR deadline_at > clock_timestamp())
    LIMIT $3";

/// Of the runs in $2, $3.
macro_rules! held {
    () => {
        "id = ANY($2) AND worker = $1 AND ((id, epoch) IN (SELECT * FROM UNNEST($2::uuid[], $3::integer[]))) IS TRUE"
    };
}

/// Those that are held, and whether their leases have less than $5 left or, once the clock has been set back, more than $4.
const HELD: &str = concat!(
    "SELECT id, epoch, lease_until NOT BETWEEN clock_timestamp() + $5::bigint * interval '1 microsecond'
                            AND clock_timestamp() + $4::bigint * interval '1 microsecond'
     FROM predictions WHERE ",
    held!()
);

/// Extends their leases. Each counts from the moment at which its row is reached: after the worker has asked, and before a wait for
/// whoever only locks the row.
const EXTEND: &str = concat!(
    "UPDATE predictions SET lease_until = clock_timestamp() + $4::bigint * interval '1 microsecond' WHERE ",
    held!(),
    " RETURNING id"
);

impl Postgres {
    pub(crate) async fn claim(
        &self,
        worker: WorkerId,
        ids: &[PredictionId],
        lease: Duration,
    ) -> Result<Claim, StoreError> {
        let ids = uuids(ids);
        let rows: Vec<ClaimedRow<String>> = on_connection!(self, |connection| sqlx::query_as(CLAIM)
            .bind(worker.0)
            .bind(micros(lease))
            .bind(&ids)
            .fetch_all(connection)
            .await)?;
        let mut suspects = Vec::new();
        if rows.len() < ids.len() {
            suspects = on_connection!(self, |connection| sqlx::query_scalar(SUSPECTS_AMONG)
                .bind(&ids)
                .fetch_all(connection)
                .await)?;
        }
        claim(rows, suspects)
    }

    pub(crate) async fn claim_next(
        &self,
        worker: WorkerId,
        serves: &[(ModelName, Version)],
        passed_over: &[PredictionId],
        limit: u32,
        lease: Duration,
    ) -> Result<Claim, StoreError> {
        let (models, versions) = names(serves);
        let rows: Vec<ClaimedRow<String>> = on_connection!(self, |connection| sqlx::query_as(CLAIM_NEXT)
            .bind(worker.0)
            .bind(micros(lease))
            .bind(&models)
            .bind(&versions)
            .bind(i64::from(limit))
            .bind(uuids(passed_over))
            .fetch_all(connection)
            .await)?;
        let suspects = on_connection!(self, |connection| sqlx::query_scalar(SUSPECTS_OF)
            .bind(&models)
            .bind(&versions)
            .bind(i64::from(limit))
            .fetch_all(connection)
            .await)?;
        claim(rows, suspects)
    }

    pub(crate) async fn next_waiting(
        &self,
        serves: &[(ModelName, Version)],
        passed_over: &[PredictionId],
        limit: u32,
    ) -> Result<Vec<PredictionId>, StoreError> {
        let (models, versions) = names(serves);
        let next = on_connection!(self, |connection| sqlx::query_scalar(NEXT_WAITING)
            .bind(&models)
            .bind(&versions)
            .bind(i64::from(limit))
            .bind(uuids(passed_over))
            .fetch_all(connection)
            .await)?;
        Ok(rows::ids(next))
    }

    pub(crate) async fn claim_suspect(
        &self,
        worker: WorkerId,
        serves: &[(ModelName, Version)],
        lease: Duration,
    ) -> Result<Option<Claimed>, StoreError> {
        let (models, versions) = names(serves);
        let row: Option<ClaimedRow<String>> = on_connection!(self, |connection| sqlx::query_as(CLAIM_SUSPECT)
            .bind(worker.0)
            .bind(micros(lease))
            .bind(&models)
            .bind(&versions)
            .fetch_optional(connection)
            .await)?;
        row.map(ClaimedRow::into_claimed).transpose()
    }

    pub(crate) async fn renew(
        &self,
        worker: WorkerId,
        runs: &[Run],
        lease: Duration,
    ) -> Result<Vec<PredictionId>, StoreError> {
        let (ids, epochs): (Vec<Uuid>, Vec<i32>) = runs.iter().map(|run| (run.id.0, run.epoch)).unzip();
        let held: Vec<(Uuid, i32, bool)> = on_connection!(self, |connection| sqlx::query_as(HELD)
            .bind(worker.0)
            .bind(&ids)
            .bind(&epochs)
            .bind(micros(lease))
            .bind(micros(renewed_for(lease)))
            .fetch_all(connection)
            .await)?;
        let (due, rest): (Vec<_>, Vec<_>) = held.into_iter().partition(|(_, _, is_due)| *is_due);
        let mut kept: HashSet<Uuid> = rest.into_iter().map(|(id, ..)| id).collect();
        if !due.is_empty() {
            let (ids, epochs): (Vec<Uuid>, Vec<i32>) = due.into_iter().map(|(id, epoch, _)| (id, epoch)).unzip();
            let extended: Vec<Uuid> = on_connection!(self, |connection| sqlx::query_scalar(EXTEND)
                .bind(worker.0)
                .bind(&ids)
                .bind(&epochs)
                .bind(micros(lease))
                .fetch_all(connection)
                .await)?;
            kept.extend(extended);
        }
        Ok(rows::ids(ids.into_iter().filter(|id| !kept.contains(id)).collect()))
    }
}

fn names(serves: &[(ModelName, Version)]) -> (Vec<&str>, Vec<&str>) {
    serves.iter().map(|(model, version)| (model.as_str(), version.as_str())).unzip()
}

fn claim(rows: Vec<ClaimedRow<String>>, suspects: Vec<Uuid>) -> Result<Claim, StoreError> {
    let claimed = rows.into_iter().map(ClaimedRow::into_claimed).collect::<Result<_, _>>()?;
    Ok(Claim { claimed, suspects: rows::ids(suspects), ..Claim::default() })
}
