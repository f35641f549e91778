//! The outbox: the end of every statement that makes something happen to predictions, which adds what their callers are told.

/// Adds a delivery for each row (`id`, `event`, `tenant`, `at`) of a query that picks what happened and is wanted. It is to pick
/// by `webhook_events` alone: LATERAL and LIMIT keep the planner from reading inputs of predictions that it leaves out.
macro_rules! tell {
    ($happened:literal) => {
        concat!(
            "INSERT INTO deliveries
                 (prediction_id, event, tenant, url, endpoint, origin, created_at, due_at, begun_at)
             SELECT id, event, tenant, webhook_url, webhook_endpoint, webhook_origin, at, at, at
             FROM (",
            $happened,
            ") AS happened
             CROSS JOIN LATERAL (
                 SELECT webhook_url, webhook_endpoint, webhook_origin FROM inputs WHERE prediction_id = id LIMIT 1
             ) AS receiver
             ON CONFLICT (prediction_id, event) DO NOTHING"
        )
    };
}
pub(super) use tell;
