//! The outbox: in the transaction that makes something happen to predictions, what their callers are told.

use prediction::{Event, Events, PredictionId};
use sqlx::{SqliteConnection, types::Json};

use super::clock::Stamp;

/// One row for each [prediction, event].
const TELL: &str = "
    INSERT INTO deliveries (prediction_id, event, tenant, url, endpoint, origin, created_at, due_at, begun_at)
    SELECT predictions.id, happened.value ->> 1, tenant, webhook_url, webhook_endpoint, webhook_origin, ?2, ?2, ?2
    FROM json_each(?1) AS happened
    CROSS JOIN predictions ON predictions.id = unhex(happened.value ->> 0)
    JOIN inputs ON inputs.prediction_id = predictions.id
    WHERE true
    ON CONFLICT DO NOTHING";

/// What happened to predictions in one transaction, as far as their callers want to be told.
#[derive(Default)]
pub(super) struct Outbox(Vec<(String, i16)>);

impl Outbox {
    /// These events happened to a prediction.
    pub(super) fn add(&mut self, id: PredictionId, wanted: Events, happened: impl IntoIterator<Item = Event>) {
        let told = happened.into_iter().filter(|event| wanted.contains(*event));
        self.0.extend(told.map(|event| (id.0.simple().to_string(), event.code())));
    }

    /// Adds the deliveries.
    pub(super) async fn tell(self, connection: &mut SqliteConnection, now: Stamp) -> sqlx::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        sqlx::query(TELL).bind(Json(self.0)).bind(now).execute(connection).await.map(drop)
    }
}
