//! Ending what is over: leases that ran out, deadlines that passed.

use prediction::{PredictionId, Status};
use uuid::Uuid;

use super::{Postgres, on_connection, outbox::tell};
use crate::{
    StoreError, Sweep, Swept, failures,
    numbers::{count, micros},
    rows::{self, uuids},
};

/// A run whose lease ran out. One that was not alone makes a suspect of its prediction, without blame; one that was alone is
/// a strike, and the last strike is the end. Right after a start of the server nobody could renew, so nothing is swept for one lease.
/// Where $7 is something, only what it names is.
const SWEEP_LEASES: &str = concat!(
    "WITH clock AS MATERIALIZED (
        SELECT clock_timestamp() AS at
        WHERE pg_postmaster_start_time() + $1::bigint * interval '1 microsecond' < clock_timestamp()
    ),
    dead AS MATERIALIZED (
        SELECT id FROM predictions
        WHERE status = 1 AND lease_until < (SELECT at FROM clock) AND ($7::uuid[] IS NULL OR id = ANY($7))
        ORDER BY lease_until
        LIMIT $3
        FOR UPDATE SKIP LOCKED
    ),
    swept AS (
        UPDATE predictions
        SET status = CASE WHEN solo AND crashes + 1 >= $2 THEN 3 ELSE 0 END, epoch = epoch + 1, worker = NULL,
            lease_until = NULL, crashes = crashes + solo::integer, suspect = true, solo = false, queued_at = NULL,
            -- Nothing, where it is no end.
            (completed_at, expires_at, code, message, retryable) = (
                SELECT at, at + retention, $4::text, $5::text, $6::boolean FROM clock WHERE solo AND crashes + 1 >= $2
            )
        WHERE id = ANY(ARRAY(SELECT id FROM dead))
        RETURNING id, status, tenant, webhook_events, completed_at
    ),
    told AS (",
    tell!(
        "SELECT id, 4::smallint AS event, tenant, completed_at AS at
         FROM swept
         WHERE status = 3 AND webhook_events & 16 <> 0"
    ),
    ")
    SELECT id, status FROM swept"
);

/// Where $5 is something, only what it names is swept.
const SWEEP_DEADLINES: &str = concat!(
    "WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS at),
    late AS MATERIALIZED (
        SELECT id FROM predictions
        WHERE status < 2 AND deadline_at IS NOT NULL AND deadline_at <= (SELECT at FROM clock)
          AND ($5::uuid[] IS NULL OR id = ANY($5))
        ORDER BY deadline_at
        LIMIT $1
        FOR UPDATE SKIP LOCKED
    ),
    swept AS (
        UPDATE predictions
        SET status = 4, epoch = epoch + 1, worker = NULL, lease_until = NULL, solo = false,
            completed_at = (SELECT at FROM clock), expires_at = (SELECT at FROM clock) + retention,
            code = $2, message = $3, retryable = $4
        WHERE id = ANY(ARRAY(SELECT id FROM late))
        RETURNING id, tenant, webhook_events, completed_at
    ),
    told AS (",
    tell!("SELECT id, 4::smallint AS event, tenant, completed_at AS at FROM swept WHERE webhook_events & 16 <> 0"),
    ")
    SELECT id FROM swept"
);

/// What sweeps may find: $1 of each kind, leases if $2.
const OVER: &str = "
    (
        SELECT id FROM predictions
        WHERE $2 AND status = 1 AND lease_until < (SELECT clock_timestamp())
        ORDER BY lease_until
        LIMIT $1
    )
    UNION
    (
        SELECT id FROM predictions
        WHERE status < 2 AND deadline_at IS NOT NULL AND deadline_at <= (SELECT clock_timestamp())
        ORDER BY deadline_at
        LIMIT $1
    )";

impl Postgres {
    pub(crate) async fn over(&self, sweep: Sweep) -> Result<Vec<PredictionId>, StoreError> {
        let over = on_connection!(self, |connection| sqlx::query_scalar(OVER)
            .bind(i64::from(sweep.limit))
            .bind(sweep.leases)
            .fetch_all(connection)
            .await)?;
        Ok(rows::ids(over))
    }

    /// `among`: if anything, no others.
    pub(crate) async fn sweep(&self, sweep: Sweep, among: Option<&[PredictionId]>) -> Result<Swept, StoreError> {
        let (mut swept, among) = (Swept::default(), among.map(uuids));
        if sweep.leases {
            for (id, status) in self.sweep_leases(sweep, among.as_deref()).await? {
                let kind = if status == Status::Starting.code() { &mut swept.requeued } else { &mut swept.ended };
                kind.push(PredictionId(id));
            }
        }
        let failure = failures::deadline_exceeded();
        let late: Vec<Uuid> = on_connection!(self, |connection| sqlx::query_scalar(SWEEP_DEADLINES)
            .bind(i64::from(sweep.limit))
            .bind(failure.code.as_str())
            .bind(&failure.message)
            .bind(failure.retryable)
            .bind(&among)
            .fetch_all(connection)
            .await)
        // What became of the leases is committed, and its news must not be lost with the deadlines'.
        .or_else(|error| {
            if swept == Swept::default() {
                return Err(error);
            }
            tracing::warn!(%error, "deadlines were not swept; the next sweep looks again");
            Ok(Vec::new())
        })?;
        swept.ended.extend(late.into_iter().map(PredictionId));
        Ok(swept)
    }

    async fn sweep_leases(&self, sweep: Sweep, among: Option<&[Uuid]>) -> Result<Vec<(Uuid, i16)>, StoreError> {
        let failure = failures::poison(sweep.max_crashes);
        on_connection!(self, |connection| sqlx::query_as(SWEEP_LEASES)
            .bind(micros(sweep.lease))
            .bind(count(sweep.max_crashes))
            .bind(i64::from(sweep.limit))
            .bind(failure.code.as_str())
            .bind(&failure.message)
            .bind(failure.retryable)
            .bind(among)
            .fetch_all(connection)
            .await)
    }
}
