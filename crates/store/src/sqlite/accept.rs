//! Accepting predictions: nothing else writes meanwhile, so what is stored is read first and decided upon here.

use std::collections::HashMap;

use prediction::{ModelName, PredictionId, Version};
use sqlx::{QueryBuilder, SqliteConnection};
use uuid::Uuid;

use super::{
    Sqlite,
    clock::{self, Stamp},
    id_list, slices,
    writer::{Turn, first},
};
use crate::{
    Accepted, NewPrediction, StoreError,
    numbers::{count, micros},
    repeated,
    rows::{VersionIds, moment},
};

const NUMBER_VERSION: &str = "INSERT INTO versions (model, version) VALUES (?1, ?2) ON CONFLICT DO NOTHING";
const READ_NUMBER: &str = "SELECT id FROM versions WHERE model = ?1 AND version = ?2";

const READ_KEYS: &str = "
    SELECT held.tenant, held.key, prediction_id, fingerprint
    FROM json_each(?1) AS wanted
    CROSS JOIN idempotency_keys AS held ON held.tenant = wanted.value ->> 0 AND held.key = wanted.value ->> 1";

const READ_TAKEN: &str = first!(
    "SELECT predictions.id, tenant, fingerprint
    FROM json_each(?1) AS wanted
    CROSS JOIN predictions ON predictions.id = unhex(wanted.value)
    LEFT JOIN inputs ON prediction_id = predictions.id"
);

type Key = (String, String);

/// A new prediction that is to be stored.
struct Fresh<'a> {
    new: &'a NewPrediction,
    version: Option<i32>,
}

impl Sqlite {
    pub(crate) async fn accept(&self, batch: &[NewPrediction]) -> Result<Vec<Accepted>, StoreError> {
        let mut transaction = self.writer.turn().await?;
        let mut taken = read_taken(&mut transaction, batch).await?;
        let now = clock::now();
        let numbered = number_versions(&mut transaction, &self.versions, batch).await?;
        let version = |new: &NewPrediction| {
            let named = |(model, version, _): &&(_, _, i32)| (model, version) == (&new.model, &new.version);
            self.versions.get(&new.model, &new.version).or_else(|| numbered.iter().find(named).map(|found| found.2))
        };
        let mut keys = read_keys(&mut transaction, batch).await?;
        let mut fresh = Vec::new();
        let mut fresh_keys = Vec::new();
        let mut answers = Vec::with_capacity(batch.len());
        for new in batch {
            let key = new.idempotency_key.as_ref().map(|key| (new.tenant.clone(), key.clone()));
            let holder = key.as_ref().and_then(|key| keys.get(key));
            answers.push(if let Some((id, fingerprint)) = holder {
                repeated::by_key(new, *id, fingerprint)
            } else if taken.get(&new.id).is_some_and(|owner| *owner != owner_of(new)) {
                Accepted::IdConflict
            } else {
                if let Some(key) = key {
                    keys.insert(key, (new.id, new.fingerprint.to_vec()));
                    fresh_keys.push(new);
                }
                if taken.insert(new.id, owner_of(new)).is_some() {
                    Accepted::Replayed { id: new.id }
                } else {
                    fresh.push(Fresh { new, version: version(new) });
                    let deadline_at = new.deadline.map(|deadline| moment(now.plus(micros(deadline)))).transpose()?;
                    Accepted::Created { created_at: moment(now)?, deadline_at }
                }
            });
        }
        insert(transaction, now, &fresh, &fresh_keys).await?;
        // Known only now that they are committed.
        for (model, version, number) in &numbered {
            self.versions.insert(model, version, *number);
        }
        Ok(answers)
    }
}

type Owner = (String, Option<Vec<u8>>);

fn owner_of(new: &NewPrediction) -> Owner {
    (new.tenant.clone(), Some(new.fingerprint.to_vec()))
}

async fn number_versions(
    connection: &mut SqliteConnection,
    versions: &VersionIds,
    batch: &[NewPrediction],
) -> sqlx::Result<Vec<(ModelName, Version, i32)>> {
    let mut numbered = Vec::new();
    for (model, version) in versions.unknown(batch) {
        sqlx::query(NUMBER_VERSION).bind(model.as_str()).bind(version.as_str()).execute(&mut *connection).await?;
        let number = sqlx::query_scalar(READ_NUMBER).bind(model.as_str()).bind(version.as_str());
        let number = number.fetch_one(&mut *connection).await?;
        numbered.push((model, version, number));
    }
    Ok(numbered)
}

async fn read_keys(
    connection: &mut SqliteConnection,
    batch: &[NewPrediction],
) -> Result<HashMap<Key, (PredictionId, Vec<u8>)>, StoreError> {
    let wanted: Vec<(&str, &str)> =
        batch.iter().filter_map(|new| new.idempotency_key.as_deref().map(|key| (new.tenant.as_str(), key))).collect();
    if wanted.is_empty() {
        return Ok(HashMap::new());
    }
    let holders: Vec<(String, String, Uuid, Vec<u8>)> =
        sqlx::query_as(READ_KEYS).bind(sqlx::types::Json(wanted)).fetch_all(connection).await?;
    let holder = |(tenant, key, id, fingerprint)| ((tenant, key), (PredictionId(id), fingerprint));
    Ok(holders.into_iter().map(holder).collect())
}

async fn read_taken(
    connection: &mut SqliteConnection,
    batch: &[NewPrediction],
) -> Result<HashMap<PredictionId, Owner>, StoreError> {
    let wanted = id_list(batch.iter().map(|new| &new.id));
    let taken: Vec<(Uuid, String, Option<Vec<u8>>)> =
        sqlx::query_as(READ_TAKEN).bind(wanted).fetch_all(connection).await?;
    Ok(taken.into_iter().map(|(id, tenant, fingerprint)| (PredictionId(id), (tenant, fingerprint))).collect())
}

/// Stores these, and commits.
async fn insert(
    mut transaction: Turn,
    now: Stamp,
    fresh: &[Fresh<'_>],
    fresh_keys: &[&NewPrediction],
) -> sqlx::Result<()> {
    for rows in slices(fresh_keys) {
        let mut query =
            QueryBuilder::new("INSERT INTO idempotency_keys (tenant, key, prediction_id, fingerprint, created_at) ");
        query.push_values(rows, |mut row, new| {
            row.push_bind(new.tenant.clone())
                .push_bind(new.idempotency_key.clone())
                .push_bind(new.id.0)
                .push_bind(new.fingerprint.to_vec())
                .push_bind(now);
        });
        query.build().execute(&mut *transaction).await?;
    }
    let predictions = |rows: &[Fresh<'_>]| {
        let mut query = QueryBuilder::new(
            "INSERT INTO predictions
                 (id, tenant, version_id, priority, max_retries, created_at, not_before, queued_at, deadline_at, retention,
                  webhook_events) ",
        );
        query.push_values(rows, |mut row, Fresh { new, version }| {
            row.push_bind(new.id.0)
                .push_bind(new.tenant.clone())
                .push_bind(*version)
                .push_bind(new.priority.code())
                .push_bind(count(new.max_retries))
                .push_bind(now)
                .push_bind(now)
                .push_bind(new.queued.then_some(now))
                .push_bind(new.deadline.map(|deadline| now.plus(micros(deadline))))
                .push_bind(micros(new.retention))
                .push_bind(new.webhook_events().bits());
        });
        query.push(
            "; INSERT INTO inputs
                 (prediction_id, input, metadata, fingerprint, webhook_url, webhook_endpoint, webhook_origin) ",
        );
        query.push_values(rows, |mut row, Fresh { new, .. }| {
            row.push_bind(new.id.0)
                .push_bind(new.input.get().to_owned())
                .push_bind(new.metadata.as_ref().map(|metadata| metadata.get().to_owned()))
                .push_bind(new.fingerprint.to_vec())
                .push_bind(new.webhook.as_ref().map(|webhook| webhook.url.clone()))
                .push_bind(new.webhook.as_ref().map(|webhook| webhook.endpoint.clone()))
                .push_bind(new.webhook.as_ref().map(|webhook| webhook.origin.clone()));
        });
        query
    };
    transaction.commit_with(fresh, predictions).await
}
