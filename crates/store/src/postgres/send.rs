//! Sending: deliveries claimed under a lease, settled behind the fence, and swept.

use std::{collections::HashSet, time::Duration};

use prediction::{PredictionId, WorkerId};
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Postgres, on_connection};
use crate::{
    ClaimedDelivery, DeliveryClaim, Line, Room, Sending, Settled, StoreError, SweptDeliveries, Written,
    apart::apart,
    lines::{self, Front, LOOKS, PAST_ENDPOINTS, Share},
    numbers::{count, micros},
    rows::{self, uuids},
    settled::{self, Item},
    webhook_rows::{ClaimedDeliveryRow, delivery_id},
};

/// Each line is found by one look into the index, and so is the next origin behind one with nothing to spare, however many
/// and long its lines are.
const LOOK: &str = "
    WITH RECURSIVE clock AS MATERIALIZED (SELECT clock_timestamp() AS at),
    lines (origin, endpoint, look) AS (
        (
            SELECT origin, endpoint, 1 FROM deliveries
            WHERE status = 0 AND (origin, endpoint) > ($1, $2)
            ORDER BY origin, endpoint
            LIMIT 1
        )
        UNION ALL
        SELECT next.origin, next.endpoint, look + 1
        FROM lines
        CROSS JOIN LATERAL (
            SELECT origin, endpoint FROM deliveries
            WHERE status = 0 AND (origin, endpoint) > (
                lines.origin,
                CASE WHEN COALESCE(($3::jsonb ->> lines.origin)::bigint, $4) > 0 THEN lines.endpoint ELSE $8 END
            )
            ORDER BY origin, endpoint
            LIMIT 1
        ) AS next
        WHERE look < $9
    )
    SELECT origin, endpoint, ARRAY(
        SELECT due_at FROM deliveries
        WHERE status = 0 AND origin = lines.origin AND endpoint = lines.endpoint AND due_at <= (SELECT at FROM clock)
        ORDER BY due_at
        LIMIT LEAST(
            COALESCE(($3::jsonb ->> lines.origin)::bigint, $4),
            COALESCE(($5::jsonb ->> lines.endpoint)::bigint, $6),
            $7
        )
    )
    FROM lines
    ORDER BY look";

/// From each line as many as are wanted, and no more are locked; what another sender is just taking does not count. What is taken is
/// found by arrays of ids and payloads one by one: joins may be turned round (see claim.rs).
const CLAIM: &str = "
    WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS at),
    chosen AS MATERIALIZED (
        SELECT line.*
        FROM UNNEST($3::text[], $4::text[], $5::integer[]) AS wanted (origin, endpoint, number)
        CROSS JOIN LATERAL (
            SELECT prediction_id, event FROM deliveries
            WHERE status = 0 AND origin = wanted.origin AND endpoint = wanted.endpoint AND due_at <= (SELECT at FROM clock)
            ORDER BY due_at, prediction_id, event
            LIMIT number
            FOR UPDATE SKIP LOCKED
        ) AS line
    ),
    taken AS (
        UPDATE deliveries
        SET status = 1, epoch = epoch + 1, sender = $1, lease_until = at + $2::bigint * interval '1 microsecond'
        FROM clock
        WHERE prediction_id = ANY(ARRAY(SELECT prediction_id FROM chosen))
          AND ((prediction_id, event) IN (SELECT prediction_id, event FROM chosen)) IS TRUE
        RETURNING deliveries.*
    )
    SELECT prediction_id, event, epoch, taken.tenant, taken.url, endpoint, origin, round, at AS claimed_at,
           taken.created_at, body, disabled_at IS NOT NULL AS is_disabled,
           COALESCE((SELECT octet_length(input) FROM inputs WHERE inputs.prediction_id = taken.prediction_id), 0)::bigint
               + COALESCE((SELECT octet_length(output) FROM predictions WHERE id = taken.prediction_id), 0) AS payload_bytes
    FROM taken
    CROSS JOIN clock
    LEFT JOIN endpoints ON endpoints.tenant = taken.tenant AND endpoints.url = endpoint
    ORDER BY due_at, prediction_id, event";

/// Compare-and-set on the epoch, for a whole batch. Rows are locked in the order of ids, each found by its id, as LATERAL makes
/// sure; an attempt is stored only for a row that was changed. Endpoints that want no more are locked in the order of their keys.
const SETTLE: &str = "
    WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS at),
    item AS MATERIALIZED (
        SELECT * FROM UNNEST(
            $1::uuid[], $2::smallint[], $3::integer[], $4::smallint[], $5::bigint[], $6::boolean[], $7::timestamptz[],
            $8::bigint[], $9::smallint[], $10::bytea[], $11::text[], $12::text[]
        ) AS item (
            id, event, epoch, becomes, wait, is_gone, tried_at,
            latency, answered, answer, error, message
        )
        ORDER BY id, event
    ),
    held AS MATERIALIZED (
        SELECT item.*
        FROM item
        CROSS JOIN LATERAL (
            SELECT FROM deliveries
            WHERE prediction_id = item.id AND event = item.event AND epoch = item.epoch AND sender IS NOT NULL
            FOR UPDATE
        ) AS locked
    ),
    applied AS (
        UPDATE deliveries
        SET status = becomes, sender = NULL, lease_until = NULL,
            due_at = CASE WHEN wait IS NULL THEN due_at ELSE at + wait * interval '1 microsecond' END,
            completed_at = CASE WHEN becomes >= 2 THEN at END,
            attempts = attempts + (tried_at IS NOT NULL)::integer, round = round + (tried_at IS NOT NULL)::integer
        FROM held CROSS JOIN clock
        WHERE prediction_id = id AND deliveries.event = held.event
        RETURNING held.*, attempts, tenant, endpoint, at
    ),
    written AS (
        INSERT INTO delivery_attempts (prediction_id, event, attempt, at, latency, status, answer, error, message)
        SELECT id, event, attempts, tried_at, latency, answered, answer, error, message
        FROM applied
        WHERE tried_at IS NOT NULL
    ),
    gone AS (
        INSERT INTO endpoints (id, tenant, url, created_at, disabled_at)
        SELECT gen_random_uuid(), tenant, endpoint, at, at
        FROM applied
        WHERE is_gone
        GROUP BY tenant, endpoint, at
        ORDER BY tenant, endpoint
        ON CONFLICT (tenant, url) DO UPDATE SET disabled_at = COALESCE(endpoints.disabled_at, excluded.disabled_at)
    )
    SELECT id, event, epoch FROM applied";

/// Where $2 is something, only those of what it names are swept.
const SWEEP_LEASES: &str = "
    WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS at),
    dead AS MATERIALIZED (
        SELECT prediction_id, event FROM deliveries
        WHERE status = 1 AND lease_until < (SELECT at FROM clock)
          AND ($2::uuid[] IS NULL OR prediction_id = ANY($2))
        ORDER BY lease_until
        LIMIT $1
        FOR UPDATE SKIP LOCKED
    )
    UPDATE deliveries
    SET status = 0, epoch = epoch + 1, sender = NULL, lease_until = NULL
    FROM dead
    WHERE deliveries.prediction_id = dead.prediction_id AND deliveries.event = dead.event";

/// Where $3 is something, only those of what it names are swept.
const SWEEP_OLD: &str = "
    WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS at),
    old AS MATERIALIZED (
        SELECT prediction_id, event FROM deliveries
        WHERE status = 0 AND completed_at IS NULL AND begun_at < (SELECT at - $1::bigint * interval '1 microsecond' FROM clock)
          AND ($3::uuid[] IS NULL OR prediction_id = ANY($3))
        ORDER BY begun_at
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    )
    UPDATE deliveries
    SET status = 3, completed_at = at
    FROM old CROSS JOIN clock
    WHERE deliveries.prediction_id = old.prediction_id AND deliveries.event = old.event";

/// Of which predictions there are deliveries that sweeps may find.
const OVER: &str = "
    (
        SELECT prediction_id FROM deliveries
        WHERE status = 1 AND lease_until < (SELECT clock_timestamp())
        ORDER BY lease_until
        LIMIT $2
    )
    UNION
    (
        SELECT prediction_id FROM deliveries
        WHERE status = 0 AND completed_at IS NULL
          AND begun_at < (SELECT clock_timestamp() - $1::bigint * interval '1 microsecond')
        ORDER BY begun_at
        LIMIT $2
    )";

impl Postgres {
    pub(crate) async fn claim_deliveries(
        &self,
        sender: WorkerId,
        room: &Room,
        after: Option<&Line>,
        limit: u32,
        lease: Duration,
    ) -> Result<DeliveryClaim, StoreError> {
        let (origin, endpoint) = after.map_or(("", ""), |line| (&line.origin, &line.endpoint));
        let seen: Vec<(String, String, Vec<OffsetDateTime>)> = on_connection!(self, |connection| sqlx::query_as(LOOK)
            .bind(origin)
            .bind(endpoint)
            .bind(Json(&room.origins.known))
            .bind(i64::from(room.origins.usual))
            .bind(Json(&room.endpoints.known))
            .bind(i64::from(room.endpoints.usual))
            .bind(i64::from(limit))
            .bind(PAST_ENDPOINTS)
            .bind(count(LOOKS))
            .fetch_all(connection)
            .await)?;
        let front = |(origin, endpoint, due)| Front { line: Line { origin, endpoint }, due };
        let fronts: Vec<_> = seen.into_iter().map(front).collect();
        let shares = lines::shares(&fronts, room, limit);
        let (claimed, refused) = lines::taken(apart(&shares, |part| self.take(sender, part, lease)).await?);
        Ok(DeliveryClaim { claimed, refused, looked_to: lines::looked_to(fronts) })
    }

    async fn take(
        &self,
        sender: WorkerId,
        shares: &[Share<'_>],
        lease: Duration,
    ) -> Result<Vec<ClaimedDelivery>, StoreError> {
        let rows: Vec<ClaimedDeliveryRow<OffsetDateTime>> = on_connection!(self, |connection| sqlx::query_as(CLAIM)
            .bind(sender.0)
            .bind(micros(lease))
            .bind(shares.iter().map(|(line, _)| line.origin.as_str()).collect::<Vec<_>>())
            .bind(shares.iter().map(|(line, _)| line.endpoint.as_str()).collect::<Vec<_>>())
            .bind(shares.iter().map(|(_, number)| *number).collect::<Vec<_>>())
            .fetch_all(connection)
            .await)?;
        rows.into_iter().map(ClaimedDeliveryRow::into_claimed).collect()
    }

    pub(crate) async fn settle_deliveries(&self, settled: &[Settled]) -> Result<Vec<Written>, StoreError> {
        let mut seen = HashSet::new();
        let items: Vec<Item<'_>> = settled.iter().map(Item::from).filter(|item| seen.insert(item.sending)).collect();
        let applied: Vec<(Uuid, i16, i32)> = on_connection!(self, |connection| sqlx::query_as(SETTLE)
            .bind(items.iter().map(|item| item.sending.id.prediction.0).collect::<Vec<_>>())
            .bind(items.iter().map(|item| item.sending.id.event.code()).collect::<Vec<_>>())
            .bind(items.iter().map(|item| item.sending.epoch).collect::<Vec<_>>())
            .bind(items.iter().map(|item| item.status.code()).collect::<Vec<_>>())
            .bind(items.iter().map(|item| item.wait.map(micros)).collect::<Vec<_>>())
            .bind(items.iter().map(|item| item.is_gone).collect::<Vec<_>>())
            .bind(items.iter().map(Item::at).collect::<Vec<_>>())
            .bind(items.iter().map(Item::latency).collect::<Vec<_>>())
            .bind(items.iter().map(Item::http_status).collect::<Vec<_>>())
            .bind(items.iter().map(Item::body).collect::<Vec<_>>())
            .bind(items.iter().map(Item::error).collect::<Vec<_>>())
            .bind(items.iter().map(Item::message).collect::<Vec<_>>())
            .fetch_all(connection)
            .await)?;
        let sending = |(prediction, event, epoch)| Ok(Sending { id: delivery_id(prediction, event)?, epoch });
        let applied = applied.into_iter().map(sending).collect::<Result<_, StoreError>>()?;
        Ok(settled::written(settled, applied))
    }

    /// `among`: if anything, those of no other predictions.
    pub(crate) async fn sweep_deliveries(
        &self,
        longest: Duration,
        limit: u32,
        among: Option<&[PredictionId]>,
    ) -> Result<SweptDeliveries, StoreError> {
        let (limit, among) = (i64::from(limit), among.map(uuids));
        let requeued = on_connection!(self, |connection| sqlx::query(SWEEP_LEASES)
            .bind(limit)
            .bind(&among)
            .execute(connection)
            .await)?;
        let exhausted = on_connection!(self, |connection| sqlx::query(SWEEP_OLD)
            .bind(micros(longest))
            .bind(limit)
            .bind(&among)
            .execute(connection)
            .await)?;
        Ok(SweptDeliveries { requeued: requeued.rows_affected(), exhausted: exhausted.rows_affected() })
    }

    pub(crate) async fn over_deliveries(&self, longest: Duration, limit: u32) -> Result<Vec<PredictionId>, StoreError> {
        let over = on_connection!(self, |connection| sqlx::query_scalar(OVER)
            .bind(micros(longest))
            .bind(i64::from(limit))
            .fetch_all(connection)
            .await)?;
        Ok(rows::ids(over))
    }
}
