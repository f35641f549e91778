//! Accepting predictions: nothing else writes meanwhile, so what is stored is read first and decided upon here.

use std::collections::HashMap;

use prediction::{ModelName, PredictionId, Version};
use sqlx::{QueryBuilder, SqliteConnection};
use uuid::Uuid;

use super::{
    Sqlite,
    clock::{self, Stamp},
    id_list,
    writer::Script,
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

const READ_TAKEN: &str = "
    SELECT predictions.id, tenant, fingerprint
    FROM json_each(?1) AS wanted
    CROSS JOIN predictions ON predictions.id = unhex(wanted.value)
    LEFT JOIN inputs ON prediction_id = predictions.id";

type Key = (String, String);

/// A new prediction that is to be stored.
struct Fresh<'a> {
    new: &'a NewPrediction,
    version: Option<i32>,
}

impl Sqlite {
    pub(crate) async fn accept(&self, batch: &[NewPrediction]) -> Result<Vec<Accepted>, StoreError> {
        match self.accept_as_new(batch).await? {
            Some(answers) => Ok(answers),
            None => self.accept_any(batch).await,
        }
    }

    /// Accepts a batch of which nothing is known to the store yet, as most are, without asking it; nothing of any other.
    async fn accept_as_new(&self, batch: &[NewPrediction]) -> Result<Option<Vec<Accepted>>, StoreError> {
        let mut fresh = Vec::with_capacity(batch.len());
        for new in batch {
            let Some(version) = self.versions.get(&new.model, &new.version) else { return Ok(None) };
            fresh.push(Fresh { new, version: Some(version) });
        }
        let fresh_keys: Vec<_> = batch.iter().filter(|new| new.idempotency_key.is_some()).collect();
        let turn = self.writer.turn().await?;
        let now = clock::now();
        match turn.finish(insertion(Script::whole(), now, &fresh, &fresh_keys)).await {
            Ok(_) => batch.iter().map(|new| created(new, now)).collect::<Result<_, _>>().map(Some),
            // An id or a key is taken, or stands twice in the batch. What was begun is undone by the next turn.
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    async fn accept_any(&self, batch: &[NewPrediction]) -> Result<Vec<Accepted>, StoreError> {
        let mut transaction = self.writer.begin().await?;
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
                    created(new, now)?
                }
            });
        }
        transaction.finish(insertion(Script::rest(), now, &fresh, &fresh_keys)).await?;
        // Known only now that they are committed.
        for (model, version, number) in &numbered {
            self.versions.insert(model, version, *number);
        }
        Ok(answers)
    }
}

fn created(new: &NewPrediction, now: Stamp) -> Result<Accepted, StoreError> {
    let deadline_at = new.deadline.map(|deadline| moment(now.plus(micros(deadline)))).transpose()?;
    Ok(Accepted::Created { created_at: moment(now)?, deadline_at })
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

/// What stores these: first the keys, since what is refused is mostly a request that is repeated with its key.
fn insertion(mut script: Script, now: Stamp, fresh: &[Fresh<'_>], fresh_keys: &[&NewPrediction]) -> Script {
    script.push_rows(fresh_keys, |query, rows| push_keys(query, now, rows));
    script.push_rows(fresh, |query, rows| {
        push_predictions(query, now, rows);
        push_inputs(query, rows);
    });
    script
}

/// The rows of a statement, but those that only fill it up.
const FILLED: &str = ") WHERE column1 IS NOT NULL; ";

fn push_predictions(query: &mut QueryBuilder<sqlx::Sqlite>, now: Stamp, rows: &[Option<&Fresh<'_>>]) {
    query.push(
        "INSERT INTO predictions
             (id, tenant, version_id, priority, max_retries, created_at, not_before, queued_at, deadline_at, retention,
              webhook_events, worker, lease_until, status, epoch, attempts, claimed_at, started_at)
         SELECT *, column12 IS NOT NULL, column12 IS NOT NULL, column12 IS NOT NULL, iif(column12 IS NULL, NULL, column6),
             iif(column12 IS NULL, NULL, column6) FROM (",
    );
    query.push_values(rows, |mut row, fresh| {
        let new = fresh.map(|fresh| fresh.new);
        let claimant = new.and_then(NewPrediction::claimed_by);
        row.push_bind(new.map(|new| new.id.0))
            .push_bind(new.map(|new| new.tenant.clone()))
            .push_bind(fresh.and_then(|fresh| fresh.version))
            .push_bind(new.map(|new| new.priority.code()))
            .push_bind(new.map(|new| count(new.max_retries)))
            .push_bind(now)
            .push_bind(now)
            .push_bind(new.and_then(|new| new.queued.then_some(now)))
            .push_bind(new.and_then(|new| new.deadline).map(|deadline| now.plus(micros(deadline))))
            .push_bind(new.map(|new| micros(new.retention)))
            .push_bind(new.map(|new| new.webhook_events().bits()))
            .push_bind(claimant.map(|claimant| claimant.worker.0))
            .push_bind(claimant.map(|claimant| now.plus(micros(claimant.lease))));
    });
    query.push(FILLED);
}

fn push_inputs(query: &mut QueryBuilder<sqlx::Sqlite>, rows: &[Option<&Fresh<'_>>]) {
    query.push(
        "INSERT INTO inputs
             (prediction_id, input, metadata, fingerprint, webhook_url, webhook_endpoint, webhook_origin)
         SELECT * FROM (",
    );
    query.push_values(rows, |mut row, fresh| {
        let new = fresh.map(|fresh| fresh.new);
        let webhook = new.and_then(|new| new.webhook.as_ref());
        row.push_bind(new.map(|new| new.id.0))
            .push_bind(new.map(|new| new.input.get().to_owned()))
            .push_bind(new.and_then(|new| new.metadata.as_ref()).map(|metadata| metadata.get().to_owned()))
            .push_bind(new.map(|new| new.fingerprint.to_vec()))
            .push_bind(webhook.map(|webhook| webhook.url.clone()))
            .push_bind(webhook.map(|webhook| webhook.endpoint.clone()))
            .push_bind(webhook.map(|webhook| webhook.origin.clone()));
    });
    query.push(FILLED);
}

fn push_keys(query: &mut QueryBuilder<sqlx::Sqlite>, now: Stamp, rows: &[Option<&&NewPrediction>]) {
    query.push(
        "INSERT INTO idempotency_keys (tenant, key, prediction_id, fingerprint, created_at)
         SELECT * FROM (",
    );
    query.push_values(rows, |mut row, new| {
        row.push_bind(new.map(|new| new.tenant.clone()))
            .push_bind(new.and_then(|new| new.idempotency_key.clone()))
            .push_bind(new.map(|new| new.id.0))
            .push_bind(new.map(|new| new.fingerprint.to_vec()))
            .push_bind(now);
    });
    query.push(FILLED);
}
