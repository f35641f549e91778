//! The outbox: in the transaction that makes something happen to predictions, what their callers are told.

use sqlx::{QueryBuilder, Sqlite};

/// Adds a delivery for each row (`id`, `event`, `tenant`, `at`) of a query that picks what happened and is wanted.
pub(super) fn tell(query: &mut QueryBuilder<Sqlite>, happened: impl FnOnce(&mut QueryBuilder<Sqlite>)) {
    query.push(
        "INSERT INTO deliveries (prediction_id, event, tenant, url, endpoint, origin, created_at, due_at, begun_at)
         SELECT id, event, tenant, webhook_url, webhook_endpoint, webhook_origin, at, at, at
         FROM (",
    );
    happened(query);
    query.push(
        ") AS happened
         CROSS JOIN inputs ON prediction_id = id
         WHERE true
         ON CONFLICT DO NOTHING; ",
    );
}
