//! Accepting predictions: one statement for a batch without idempotency keys, one transaction for a batch with some.

use std::collections::{HashMap, HashSet};

use prediction::{ModelName, PredictionId, Version};
use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Postgres, on_connection};
use crate::{
    Accepted, Claimant, NewPrediction, StoreError, Webhook,
    numbers::{count, micros},
    repeated,
    rows::VersionIds,
};

/// Numbers versions that have none. Another node may do the same at the same time: then its number counts.
const NUMBER_VERSIONS: &str = "
    INSERT INTO versions (model, version)
    SELECT * FROM UNNEST($1::text[], $2::text[]) AS named (model, version)
    WHERE NOT EXISTS (SELECT FROM versions WHERE (versions.model, versions.version) = (named.model, named.version))
    ON CONFLICT (model, version) DO NOTHING";

const READ_NUMBERS: &str = "
    SELECT versions.id
    FROM UNNEST($1::text[], $2::text[]) WITH ORDINALITY AS named (model, version, place)
    JOIN versions USING (model, version)
    ORDER BY place";

/// Takes those keys that are free. Waits for other transactions that are taking the same ones; all take them in the same order,
/// so nobody waits in a circle.
const TAKE_KEYS: &str = "
    INSERT INTO idempotency_keys (tenant, key, prediction_id, fingerprint, created_at)
    SELECT tenant, key, id, fingerprint, clock_timestamp()
    FROM UNNEST($1::text[], $2::text[], $3::uuid[], $4::bytea[]) WITH ORDINALITY AS new (tenant, key, id, fingerprint, place)
    ORDER BY tenant, key, place
    ON CONFLICT (tenant, key) DO NOTHING
    RETURNING tenant, key, prediction_id";

/// Who holds these keys. A statement of its own, after TAKE_KEYS: it sees what was committed while that one waited.
const READ_KEYS: &str = "
    SELECT tenant, key, prediction_id, fingerprint
    FROM idempotency_keys
    JOIN UNNEST($1::text[], $2::text[]) AS wanted (tenant, key) USING (tenant, key)";

/// Gives keys back whose prediction could not be stored, because its id is another's.
const GIVE_KEYS_BACK: &str = "
    DELETE FROM idempotency_keys
    USING UNNEST($1::text[], $2::text[]) AS wrong (tenant, key)
    WHERE (idempotency_keys.tenant, idempotency_keys.key) = (wrong.tenant, wrong.key)";

/// Stores those whose ids are free, with their inputs, and says which those were; as claimed where they have a claimant. In the
/// order of ids, like every other transaction that takes ids. `IS TRUE` keeps the planner from making a join of the test, which would compare each with each.
const INSERT: &str = "
    WITH clock AS MATERIALIZED (SELECT clock_timestamp() AS at),
    new AS MATERIALIZED (
        SELECT *, num_nonnulls(claimant) AS claims FROM UNNEST(
            $1::uuid[], $2::text[], $3::integer[], $4::smallint[], $5::integer[], $6::bigint[], $7::bigint[], $8::boolean[],
            $9::text[], $10::text[], $11::bytea[], $12::smallint[], $13::text[], $14::text[], $15::text[], $16::uuid[], $17::bigint[]
        ) AS new (
            id, tenant, version_id, priority, max_retries, deadline, retention, queued,
            input, metadata, fingerprint, webhook_events, webhook_url, webhook_endpoint, webhook_origin, claimant, lease
        )
    ),
    stored AS (
        INSERT INTO predictions
            (id, tenant, version_id, priority, max_retries, created_at, not_before, queued_at, deadline_at, retention,
             webhook_events, status, epoch, attempts, worker, lease_until, claimed_at, started_at)
        SELECT id, tenant, version_id, priority, max_retries, at, at, CASE WHEN queued THEN at END,
               at + deadline * interval '1 microsecond', retention * interval '1 microsecond', webhook_events,
               claims, claims, claims, claimant, at + lease * interval '1 microsecond',
               CASE claims WHEN 1 THEN at END, CASE claims WHEN 1 THEN at END
        FROM new CROSS JOIN clock
        ORDER BY id
        ON CONFLICT (id) DO NOTHING
        RETURNING id, created_at, deadline_at
    ),
    payloads AS (
        INSERT INTO inputs
            (prediction_id, tenant, created_at, input, metadata, fingerprint, webhook_url, webhook_endpoint, webhook_origin)
        SELECT id, tenant, at, input, metadata::jsonb, fingerprint, webhook_url, webhook_endpoint, webhook_origin
        FROM new CROSS JOIN clock
        WHERE (id IN (SELECT id FROM stored)) IS TRUE
    )
    SELECT id, created_at, deadline_at FROM stored";

/// Whose the ids are that were taken already, and what was asked with them.
const READ_TAKEN: &str = "
    SELECT id, predictions.tenant, fingerprint
    FROM predictions
    LEFT JOIN inputs ON prediction_id = id
    WHERE id = ANY($1)";

impl Postgres {
    pub(crate) async fn accept(&self, batch: &[NewPrediction]) -> Result<Vec<Accepted>, StoreError> {
        let unknown = self.versions.unknown(batch);
        if !unknown.is_empty() {
            let numbers = on_connection!(self, |connection| number_versions(connection, &unknown).await)?;
            for ((model, version), number) in unknown.iter().zip(numbers) {
                self.versions.insert(model, version, number);
            }
        }
        let has_keys = batch.iter().any(|new| new.idempotency_key.is_some());
        let versions = &self.versions;
        if has_keys {
            on_connection!(self, |connection| {
                let mut transaction = connection.begin().await?;
                let answers = accept_all(&mut transaction, versions, batch).await?;
                transaction.commit().await?;
                Ok(answers)
            })
        } else {
            // A single statement is a transaction by itself; what follows only reads.
            on_connection!(self, |connection| accept_all(connection, versions, batch).await)
        }
    }
}

async fn number_versions(connection: &mut PgConnection, versions: &[(ModelName, Version)]) -> sqlx::Result<Vec<i32>> {
    let models: Vec<&str> = versions.iter().map(|(model, _)| model.as_str()).collect();
    let digests: Vec<&str> = versions.iter().map(|(_, version)| version.as_str()).collect();
    sqlx::query(NUMBER_VERSIONS).bind(&models).bind(&digests).execute(&mut *connection).await?;
    sqlx::query_scalar(READ_NUMBERS).bind(&models).bind(&digests).fetch_all(connection).await
}

/// Decides all items. A round leaves only those undecided whose key was given back in it, or deleted while it ran.
async fn accept_all(
    connection: &mut PgConnection,
    versions: &VersionIds,
    batch: &[NewPrediction],
) -> sqlx::Result<Vec<Accepted>> {
    let mut answers: Vec<Option<Accepted>> = vec![None; batch.len()];
    while answers.iter().any(Option::is_none) {
        let undecided: Vec<usize> = (0..batch.len()).filter(|place| answers[*place].is_none()).collect();
        let repeated = take_keys(connection, batch, &undecided).await?;
        let fresh: Vec<usize> = undecided.into_iter().filter(|place| !repeated.contains(place)).collect();
        store(connection, versions, batch, &fresh, &mut answers).await?;
        answer_by_key(connection, batch, &repeated, &mut answers).await?;
    }
    Ok(answers.into_iter().flatten().collect())
}

type Key<'a> = (&'a str, &'a str);

fn key(new: &NewPrediction) -> Option<Key<'_>> {
    new.idempotency_key.as_deref().map(|key| (new.tenant.as_str(), key))
}

/// Takes the keys of these items; returns the items whose key is another's.
async fn take_keys(
    connection: &mut PgConnection,
    batch: &[NewPrediction],
    places: &[usize],
) -> sqlx::Result<Vec<usize>> {
    let keyed: Vec<(usize, Key<'_>)> =
        places.iter().filter_map(|place| key(&batch[*place]).map(|key| (*place, key))).collect();
    if keyed.is_empty() {
        return Ok(Vec::new());
    }
    let taken: Vec<(String, String, Uuid)> = sqlx::query_as(TAKE_KEYS)
        .bind(keyed.iter().map(|(_, key)| key.0).collect::<Vec<_>>())
        .bind(keyed.iter().map(|(_, key)| key.1).collect::<Vec<_>>())
        .bind(keyed.iter().map(|(place, _)| batch[*place].id.0).collect::<Vec<_>>())
        .bind(keyed.iter().map(|(place, _)| batch[*place].fingerprint.as_slice()).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    let mut taken: HashMap<Key<'_>, Uuid> =
        taken.iter().map(|(tenant, key, id)| ((tenant.as_str(), key.as_str()), *id)).collect();
    let mut repeated = Vec::new();
    for (place, key) in keyed {
        // The first item of the batch with a key is the one that took it.
        if taken.remove(&key) != Some(batch[place].id.0) {
            repeated.push(place);
        }
    }
    Ok(repeated)
}

/// Stores these items, or says what their ids are already.
async fn store(
    connection: &mut PgConnection,
    versions: &VersionIds,
    batch: &[NewPrediction],
    places: &[usize],
    answers: &mut [Option<Accepted>],
) -> sqlx::Result<()> {
    if places.is_empty() {
        return Ok(());
    }
    let mut seen = HashSet::new();
    let (first, mut taken): (Vec<usize>, Vec<usize>) = places.iter().partition(|place| seen.insert(batch[**place].id));
    let new: Vec<&NewPrediction> = first.iter().map(|place| &batch[*place]).collect();
    let stored = insert(connection, versions, &new).await?;
    for place in first {
        match stored.get(&batch[place].id) {
            Some((created_at, deadline_at)) => {
                answers[place] = Some(Accepted::Created { created_at: *created_at, deadline_at: *deadline_at });
            }
            None => taken.push(place),
        }
    }
    if taken.is_empty() {
        return Ok(());
    }
    let ids: Vec<Uuid> = taken.iter().map(|place| batch[*place].id.0).collect();
    let owners: Vec<(Uuid, String, Option<Vec<u8>>)> =
        sqlx::query_as(READ_TAKEN).bind(ids).fetch_all(&mut *connection).await?;
    let owners: HashMap<Uuid, (String, Option<Vec<u8>>)> =
        owners.into_iter().map(|(id, tenant, fingerprint)| (id, (tenant, fingerprint))).collect();
    let mut wrong: Vec<Key<'_>> = Vec::new();
    for place in taken {
        let new = &batch[place];
        let answer = owners
            .get(&new.id.0)
            .map_or(Accepted::IdConflict, |(tenant, fingerprint)| repeated::by_id(new, tenant, fingerprint.as_deref()));
        if matches!(answer, Accepted::IdConflict) {
            wrong.extend(key(new));
        }
        answers[place] = Some(answer);
    }
    if !wrong.is_empty() {
        let (tenants, keys): (Vec<&str>, Vec<&str>) = wrong.into_iter().unzip();
        sqlx::query(GIVE_KEYS_BACK).bind(tenants).bind(keys).execute(connection).await?;
    }
    Ok(())
}

async fn insert(
    connection: &mut PgConnection,
    versions: &VersionIds,
    new: &[&NewPrediction],
) -> sqlx::Result<HashMap<PredictionId, (OffsetDateTime, Option<OffsetDateTime>)>> {
    let webhook = |part: fn(&Webhook) -> &str| -> Vec<Option<&str>> {
        new.iter().map(|new| new.webhook.as_ref().map(part)).collect()
    };
    let numbers: Vec<Option<i32>> = new.iter().map(|new| versions.get(&new.model, &new.version)).collect();
    let claimants: Vec<Option<Claimant>> = new.iter().map(|new| new.claimed_by()).collect();
    let stored: Vec<(Uuid, OffsetDateTime, Option<OffsetDateTime>)> = sqlx::query_as(INSERT)
        .bind(new.iter().map(|new| new.id.0).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.tenant.as_str()).collect::<Vec<_>>())
        .bind(numbers)
        .bind(new.iter().map(|new| new.priority.code()).collect::<Vec<_>>())
        .bind(new.iter().map(|new| count(new.max_retries)).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.deadline.map(micros)).collect::<Vec<_>>())
        .bind(new.iter().map(|new| micros(new.retention)).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.queued).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.input.get()).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.metadata.as_deref().map(|metadata| metadata.get())).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.fingerprint.as_slice()).collect::<Vec<_>>())
        .bind(new.iter().map(|new| new.webhook_events().bits()).collect::<Vec<_>>())
        .bind(webhook(|webhook| &webhook.url))
        .bind(webhook(|webhook| &webhook.endpoint))
        .bind(webhook(|webhook| &webhook.origin))
        .bind(claimants.iter().map(|claimant| claimant.map(|claimant| claimant.worker.0)).collect::<Vec<_>>())
        .bind(claimants.iter().map(|claimant| claimant.map(|claimant| micros(claimant.lease))).collect::<Vec<_>>())
        .fetch_all(connection)
        .await?;
    Ok(stored.into_iter().map(|(id, created_at, deadline_at)| (PredictionId(id), (created_at, deadline_at))).collect())
}

/// Answers items whose key is another's: the same request again, or a conflict.
async fn answer_by_key(
    connection: &mut PgConnection,
    batch: &[NewPrediction],
    places: &[usize],
    answers: &mut [Option<Accepted>],
) -> sqlx::Result<()> {
    if places.is_empty() {
        return Ok(());
    }
    let mut keys: Vec<Key<'_>> = places.iter().filter_map(|place| key(&batch[*place])).collect();
    keys.sort_unstable();
    keys.dedup();
    let (tenants, keys): (Vec<&str>, Vec<&str>) = keys.into_iter().unzip();
    let holders: Vec<(String, String, Uuid, Vec<u8>)> =
        sqlx::query_as(READ_KEYS).bind(tenants).bind(keys).fetch_all(connection).await?;
    let holders: HashMap<Key<'_>, (Uuid, &[u8])> = holders
        .iter()
        .map(|(tenant, key, id, fingerprint)| ((tenant.as_str(), key.as_str()), (*id, fingerprint.as_slice())))
        .collect();
    for place in places {
        let new = &batch[*place];
        let holder = key(new).and_then(|key| holders.get(&key));
        answers[*place] = holder.map(|(id, fingerprint)| repeated::by_key(new, PredictionId(*id), fingerprint));
    }
    Ok(())
}
