//! Sending: deliveries claimed under a lease, settled behind the fence, and swept.

use std::{collections::HashSet, time::Duration};

use prediction::{DeliveryId, PredictionId, WorkerId};
use sqlx::{SqliteConnection, query::QueryScalar, sqlite::SqliteArguments, types::Json};
use uuid::Uuid;

use super::{
    Sqlite,
    clock::{self, Stamp},
    id_list,
};
use crate::{
    ClaimedDelivery, DeliveryClaim, Line, Room, Settled, StoreError, SweptDeliveries, Written,
    apart::apart,
    lines::{self, Front, LOOKS, PAST_ENDPOINTS, Share},
    numbers::{count, micros},
    rows,
    settled::{self, Item},
    webhook_rows::ClaimedDeliveryRow,
};

/// The next line, by one look into the index.
const NEXT_LINE: &str = "
    SELECT origin, endpoint FROM deliveries
    WHERE status = 0 AND (origin, endpoint) > (?1, ?2)
    ORDER BY origin, endpoint
    LIMIT 1";

/// The front of one line.
const FRONT: &str = "
    SELECT due_at, prediction_id, event FROM deliveries
    WHERE status = 0 AND origin = ?1 AND endpoint = ?2 AND due_at <= ?3
    ORDER BY due_at, prediction_id, event
    LIMIT ?4";

const TAKE: &str = "
    UPDATE deliveries
    SET status = 1, epoch = epoch + 1, sender = ?2, lease_until = ?3
    WHERE (prediction_id, event) IN (SELECT unhex(value ->> 0), value ->> 1 FROM json_each(?1))";

const READ_TAKEN: &str = "
    SELECT held.prediction_id, event, epoch, held.tenant, held.url, endpoint, origin, round, ?2 AS claimed_at,
           held.created_at, body, disabled_at IS NOT NULL AS is_disabled,
           COALESCE(octet_length(input), 0) + COALESCE(octet_length(output), 0) AS payload_bytes
    FROM json_each(?1) AS wanted
    CROSS JOIN deliveries AS held
        ON held.prediction_id = unhex(wanted.value ->> 0) AND held.event = wanted.value ->> 1
    LEFT JOIN endpoints ON endpoints.tenant = held.tenant AND endpoints.url = endpoint
    LEFT JOIN inputs ON inputs.prediction_id = held.prediction_id
    LEFT JOIN outputs ON outputs.prediction_id = held.prediction_id
    ORDER BY due_at, held.prediction_id, event";

/// Compare-and-set on the epoch.
const SETTLE: &str = "
    UPDATE deliveries
    SET status = ?5, sender = NULL, lease_until = NULL, due_at = COALESCE(?4 + ?6, due_at),
        completed_at = CASE WHEN ?5 >= 2 THEN ?4 END, attempts = attempts + ?7, round = round + ?7
    WHERE prediction_id = ?1 AND event = ?2 AND epoch = ?3 AND status = 1
    RETURNING attempts, tenant, endpoint";

const WRITE_ATTEMPT: &str = "
    INSERT INTO delivery_attempts (prediction_id, event, attempt, at, latency, status, answer, error, message)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";

const DISABLE: &str = "
    INSERT INTO endpoints (id, tenant, url, created_at, disabled_at)
    VALUES (?1, ?2, ?3, ?4, ?4)
    ON CONFLICT (tenant, url) DO UPDATE SET disabled_at = COALESCE(disabled_at, excluded.disabled_at)";

/// Where ?3 is something, only those of what it names are swept.
const SWEEP_LEASES: &str = "
    UPDATE deliveries
    SET status = 0, epoch = epoch + 1, sender = NULL, lease_until = NULL
    WHERE (prediction_id, event) IN (
        SELECT prediction_id, event FROM deliveries
        WHERE status = 1 AND lease_until < ?1
          AND (?3 IS NULL OR prediction_id IN (SELECT unhex(value) FROM json_each(?3)))
        ORDER BY lease_until
        LIMIT ?2
    )";

/// Where ?4 is something, only those of what it names are swept.
const SWEEP_OLD: &str = "
    UPDATE deliveries
    SET status = 3, completed_at = ?1
    WHERE (prediction_id, event) IN (
        SELECT prediction_id, event FROM deliveries
        WHERE status = 0 AND begun_at < ?1 - ?3
          AND (?4 IS NULL OR prediction_id IN (SELECT unhex(value) FROM json_each(?4)))
        ORDER BY begun_at
        LIMIT ?2
    )";

/// Of which predictions there are deliveries that sweeps may find.
const OVER: &str = "
    SELECT prediction_id FROM (
        SELECT prediction_id FROM deliveries WHERE status = 1 AND lease_until < ?1 ORDER BY lease_until LIMIT ?2
    )
    UNION
    SELECT prediction_id FROM (
        SELECT prediction_id FROM deliveries WHERE status = 0 AND begun_at < ?1 - ?3 ORDER BY begun_at LIMIT ?2
    )";

impl Sqlite {
    pub(crate) async fn claim_deliveries(
        &self,
        sender: WorkerId,
        room: &Room,
        after: Option<&Line>,
        limit: u32,
        lease: Duration,
    ) -> Result<DeliveryClaim, StoreError> {
        // Not by the writer, which others wait for.
        let fronts = self.look(room, after, limit).await?;
        let shares = lines::shares(&fronts, room, limit);
        let (claimed, refused) = lines::taken(apart(&shares, |part| self.take_deliveries(sender, part, lease)).await?);
        Ok(DeliveryClaim { claimed, refused, looked_to: lines::looked_to(fronts) })
    }

    async fn take_deliveries(
        &self,
        sender: WorkerId,
        shares: &[Share<'_>],
        lease: Duration,
    ) -> Result<Vec<ClaimedDelivery>, StoreError> {
        let mut transaction = self.writer.begin().await?;
        let now = clock::now();
        let mut chosen: Vec<(String, i16)> = Vec::new();
        for (line, number) in shares {
            let front = front(&mut transaction, line, now, *number).await?.into_iter();
            chosen.extend(front.map(|(_, prediction, event)| (prediction.simple().to_string(), event)));
        }
        let lease_until = now.plus(micros(lease));
        let take = sqlx::query(TAKE).bind(Json(&chosen)).bind(sender.0).bind(lease_until);
        take.execute(&mut *transaction).await?;
        let rows: Vec<ClaimedDeliveryRow<Stamp>> =
            sqlx::query_as(READ_TAKEN).bind(Json(&chosen)).bind(now).fetch_all(&mut *transaction).await?;
        transaction.commit().await?;
        rows.into_iter().map(ClaimedDeliveryRow::into_claimed).collect()
    }

    /// Lines behind `after`; of each origin with nothing to spare one at most.
    async fn look(&self, room: &Room, after: Option<&Line>, limit: u32) -> Result<Vec<Front<Stamp>>, StoreError> {
        let mut connection = self.readers.acquire().await?;
        let now = clock::now();
        let (mut origin, mut past) =
            after.map_or_else(Default::default, |line| (line.origin.clone(), line.endpoint.clone()));
        let mut fronts = Vec::new();
        for _ in 0..LOOKS {
            let next = sqlx::query_as(NEXT_LINE).bind(&origin).bind(&past).fetch_optional(&mut *connection).await?;
            let Some((of, endpoint)) = next else { break };
            let line = Line { origin: of, endpoint };
            let of_origin = room.origins.of(&line.origin);
            let most = of_origin.min(room.endpoints.of(&line.endpoint)).min(limit);
            let due = if most > 0 { front(&mut connection, &line, now, count(most)).await? } else { Vec::new() };
            origin.clone_from(&line.origin);
            past = if of_origin > 0 { line.endpoint.clone() } else { PAST_ENDPOINTS.to_owned() };
            fronts.push(Front { line, due: due.into_iter().map(|(due_at, ..)| due_at).collect() });
        }
        Ok(fronts)
    }

    pub(crate) async fn settle_deliveries(&self, settled: &[Settled]) -> Result<Vec<Written>, StoreError> {
        let mut transaction = self.writer.begin().await?;
        let now = clock::now();
        let mut applied = HashSet::new();
        for item in settled.iter().map(Item::from) {
            if settle(&mut transaction, now, &item).await? {
                applied.insert(item.sending);
            }
        }
        transaction.commit().await?;
        Ok(settled::written(settled, applied))
    }

    /// `among`: if anything, those of no other predictions.
    pub(crate) async fn sweep_deliveries(
        &self,
        longest: Duration,
        limit: u32,
        among: Option<&[PredictionId]>,
    ) -> Result<SweptDeliveries, StoreError> {
        let mut transaction = self.writer.begin().await?;
        // Mostly there is none, and to look is quicker.
        if among.is_none() && over(longest, 1).fetch_optional(&mut *transaction).await?.is_none() {
            transaction.commit().await?;
            return Ok(SweptDeliveries::default());
        }
        let (now, among) = (clock::now(), among.map(id_list));
        let requeued = sqlx::query(SWEEP_LEASES).bind(now).bind(limit).bind(&among).execute(&mut *transaction).await?;
        let old = sqlx::query(SWEEP_OLD).bind(now).bind(limit).bind(micros(longest)).bind(&among);
        let exhausted = old.execute(&mut *transaction).await?;
        transaction.commit().await?;
        Ok(SweptDeliveries { requeued: requeued.rows_affected(), exhausted: exhausted.rows_affected() })
    }

    pub(crate) async fn over_deliveries(&self, longest: Duration, limit: u32) -> Result<Vec<PredictionId>, StoreError> {
        Ok(rows::ids(over(longest, limit).fetch_all(&self.readers).await?))
    }
}

fn over<'a>(longest: Duration, limit: u32) -> QueryScalar<'a, sqlx::Sqlite, Uuid, SqliteArguments> {
    sqlx::query_scalar(OVER).bind(clock::now()).bind(limit).bind(micros(longest))
}

async fn front(
    connection: &mut SqliteConnection,
    line: &Line,
    now: Stamp,
    number: i32,
) -> sqlx::Result<Vec<(Stamp, Uuid, i16)>> {
    sqlx::query_as(FRONT).bind(&line.origin).bind(&line.endpoint).bind(now).bind(number).fetch_all(connection).await
}

/// Whether the fence let it pass.
async fn settle(connection: &mut SqliteConnection, now: Stamp, item: &Item<'_>) -> sqlx::Result<bool> {
    let DeliveryId { prediction, event } = item.sending.id;
    let changed: Option<(i32, String, String)> = sqlx::query_as(SETTLE)
        .bind(prediction.0)
        .bind(event.code())
        .bind(item.sending.epoch)
        .bind(now)
        .bind(item.status.code())
        .bind(item.wait.map(micros))
        .bind(item.at().is_some())
        .fetch_optional(&mut *connection)
        .await?;
    let Some((attempts, tenant, endpoint)) = changed else { return Ok(false) };
    if let Some(at) = item.at() {
        sqlx::query(WRITE_ATTEMPT)
            .bind(prediction.0)
            .bind(event.code())
            .bind(attempts)
            .bind(Stamp::from(at))
            .bind(item.latency())
            .bind(item.http_status())
            .bind(item.body())
            .bind(item.error())
            .bind(item.message())
            .execute(&mut *connection)
            .await?;
    }
    if item.is_gone {
        let disable = sqlx::query(DISABLE).bind(Uuid::new_v4()).bind(tenant).bind(endpoint).bind(now);
        disable.execute(connection).await?;
    }
    Ok(true)
}
