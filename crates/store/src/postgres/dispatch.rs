//! Topping up the queue: which waiting predictions lack a ticket, and who looks.

use prediction::{PredictionId, Priority, StreamKey};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{ACQUIRE_TIMEOUT, Postgres, Role, on_connection};
use crate::{
    Due, Lead, StoreError,
    numbers::micros,
    rows::{self, corrupt, read, uuids},
};

const MARK_UNQUEUED: &str = "
    UPDATE predictions SET queued_at = NULL WHERE id = ANY($1) AND worker IS NULL AND completed_at IS NULL";

/// Reads the line from its front past those whose tickets still count: at most one window of them, whose rows stay in memory.
const TAKE_DUE: &str = "
    WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS at),
    due AS MATERIALIZED (
        SELECT id FROM predictions
        WHERE version_id = (SELECT id FROM versions WHERE model = $1 AND version = $2) AND priority = $3 AND status = 0
          AND not_before <= (SELECT at FROM clock)
          AND (queued_at IS NULL OR queued_at < $4 OR queued_at < (SELECT at FROM clock) - $5::bigint * interval '1 microsecond')
        ORDER BY not_before, id
        LIMIT $6
        FOR UPDATE SKIP LOCKED
    ),
    queued AS (
        UPDATE predictions SET queued_at = (SELECT at FROM clock)
        WHERE id = ANY(ARRAY(SELECT id FROM due))
        RETURNING id, not_before
    )
    SELECT id FROM queued ORDER BY not_before, id";

/// A holder that does not ask for its role this long (it is stopped, or cut off) loses it. Needs Postgres 14.
const ROLE_TIMEOUT: &str = "10s";

/// One look into the index per stream that may exist. Asked for EXISTS, or for any row instead of the first, the planner walks
/// along all that waits.
const WAITING_STREAMS: &str = "
    SELECT model, version, stream.priority
    FROM versions
    CROSS JOIN (VALUES (1::smallint), (0::smallint), (-1::smallint)) AS stream (priority)
    CROSS JOIN LATERAL (
        SELECT FROM predictions
        WHERE version_id = versions.id AND priority = stream.priority AND status = 0
        ORDER BY not_before, id
        LIMIT 1
    ) AS any_waiting";

impl Postgres {
    pub(crate) async fn mark_unqueued(&self, ids: &[PredictionId]) -> Result<(), StoreError> {
        let ids = uuids(ids);
        on_connection!(self, |connection| sqlx::query(MARK_UNQUEUED).bind(&ids).execute(connection).await)?;
        Ok(())
    }

    pub(crate) async fn take_due(
        &self,
        stream: &StreamKey,
        due: Due,
        limit: u32,
    ) -> Result<Vec<PredictionId>, StoreError> {
        let taken: Vec<Uuid> = on_connection!(self, |connection| sqlx::query_scalar(TAKE_DUE)
            .bind(stream.model.as_str())
            .bind(stream.version.as_str())
            .bind(stream.priority.code())
            .bind::<Option<OffsetDateTime>>(due.queued_before)
            .bind(due.queued_for.map(micros))
            .bind(i64::from(limit))
            .fetch_all(connection)
            .await)?;
        Ok(rows::ids(taken))
    }

    pub(crate) async fn waiting_streams(&self) -> Result<Vec<StreamKey>, StoreError> {
        let streams: Vec<(String, String, i16)> =
            on_connection!(self, |connection| sqlx::query_as(WAITING_STREAMS).fetch_all(connection).await)?;
        let stream = |(model, version, priority)| {
            Ok(StreamKey {
                model: read("a model name", model)?,
                version: read("a version", version)?,
                priority: Priority::from_code(priority).ok_or_else(|| corrupt("a priority", priority))?,
            })
        };
        streams.into_iter().map(stream).collect()
    }

    pub(crate) async fn lead(&self, name: &'static str) -> Result<Lead, StoreError> {
        let mut roles = self.roles.lock().await;
        // Taken out while in use: a session that does not answer is dropped, and its lock with it.
        let role = roles.remove(name);
        let asked = tokio::time::timeout(ACQUIRE_TIMEOUT, self.ask_for(name, role)).await;
        let (role, lead) = match asked {
            Ok(answer) => answer?,
            Err(_) => {
                let silence = std::io::Error::from(std::io::ErrorKind::TimedOut);
                return Err(StoreError::Unavailable(sqlx::Error::Io(silence)));
            }
        };
        roles.insert(name, role);
        Ok(lead)
    }

    /// Ends the session that holds the role, if it is ours, and the lock with it.
    pub(crate) async fn resign(&self, name: &'static str) {
        drop(self.roles.lock().await.remove(name));
    }

    async fn ask_for(&self, name: &str, role: Option<Role>) -> sqlx::Result<(Role, Lead)> {
        let answering = match role {
            Some(mut role) => role.session.ping().await.is_ok().then_some(role),
            None => None,
        };
        let mut role = match answering {
            // The lock lives exactly as long as the session, so a session that answers still has it.
            Some(role) if role.is_held => return Ok((role, Lead::Kept)),
            Some(role) => role,
            None => {
                let options = PgConnectOptions::clone(&self.options).options([("idle_session_timeout", ROLE_TIMEOUT)]);
                Role { session: PgConnection::connect_with(&options).await?, is_held: false }
            }
        };
        role.is_held = try_lock(&mut role.session, name).await?;
        let lead = if role.is_held { Lead::Begun } else { Lead::Another };
        Ok((role, lead))
    }
}

async fn try_lock(session: &mut PgConnection, name: &str) -> sqlx::Result<bool> {
    sqlx::query_scalar("SELECT pg_try_advisory_lock(hashtextextended('augur:' || $1, 0))")
        .bind(name)
        .fetch_one(session)
        .await
}
