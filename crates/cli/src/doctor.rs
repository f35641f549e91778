//! `augur doctor`: checks each thing a server needs, and says what to do about each fault.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use inference::{LoadError, Models, survey};
use prediction::Offer;
use queue::Queue;
use settings::{Doctor, Fatal, say};
use store::{ApiKey, Schema, SealedSecret, Store, StoreError};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

use webhook::{Network, Sealer};

use crate::{
    parts::{connect, model_config, queue_location, store_location},
    webhook_key::KeyPlace,
};

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two looks at whether Redis answers.
const BETWEEN_LOOKS: Duration = Duration::from_millis(50);
/// The endpoints whose own secrets are looked at: the newest of each tenant.
const ENDPOINTS: u32 = 100;

/// What a check found: a few words when all is well, else what is wrong and what to do.
type Finding = Result<String, String>;

/// Checks everything and prints each finding.
pub(crate) async fn doctor(settings: Doctor) -> Result<(), Fatal> {
    let mut faults = 0;
    let mut report = |part: &str, finding: Finding| match finding {
        Ok(words) => say(format_args!("ok    {part:<9} {words}")),
        Err(fault) => {
            faults += 1;
            say(format_args!("FAIL  {part:<9} {fault}"));
        }
    };
    if settings.store.database_url.is_none() {
        report("disk", disk(&settings.data.data_dir));
    }
    let (store, finding) = database(&settings).await;
    report("database", finding);
    report("webhooks", webhooks(&settings, store.as_ref()).await);
    report("keys", keys(&settings, store.as_ref()).await);
    if let Some(store) = store {
        store.close().await;
    }
    report("queue", queue(&settings).await);
    let listen = settings.listen;
    report("models", models(settings.models).await);
    report("port", listen.bind().map(|_| format!("{} is free", listen.listen)).map_err(|error| error.to_string()));
    match faults {
        0 => Ok(()),
        1 => Err(Fatal::new("one check failed")),
        _ => Err(Fatal::new(format!("{faults} checks failed"))),
    }
}

/// Whether files can be made where the data directory is, or would be made.
fn disk(data_dir: &Path) -> Finding {
    let absolute = std::path::absolute(data_dir).map_err(|error| format!("{}: {error}", data_dir.display()))?;
    let existing = absolute.ancestors().find(|directory| directory.exists()).unwrap_or(&absolute);
    match tempfile::tempfile_in(existing) {
        Ok(_) if existing == absolute => Ok(format!("{} is writable", data_dir.display())),
        Ok(_) => Ok(format!("{} can be made", data_dir.display())),
        Err(error) => Err(format!(
            "{} cannot be written: {error}; give this user the right to, or choose another directory with --data-dir",
            existing.display()
        )),
    }
}

/// The store too, if the other checks can ask it.
async fn database(settings: &Doctor) -> (Option<Store>, Finding) {
    let location = store_location(&settings.store, &settings.data);
    let place = match (&settings.store.database_url, &location) {
        (Some(url), _) => url.to_string(),
        // Opening it would make it.
        (None, store::Location::Sqlite { path }) if !path.exists() => {
            return (None, Ok(format!("{} is made at the first start", path.display())));
        }
        (None, _) => settings.data.data_dir.display().to_string(),
    };
    let look = async {
        let store = connect(&location).await?;
        let schema = store.schema().await?;
        Ok::<_, Fatal>((store, schema))
    };
    match timeout(PATIENCE, look).await {
        Ok(Ok((store, Schema::Current))) => (Some(store), Ok(format!("{place} answers, its schema is up to date"))),
        Ok(Ok((store, schema))) => {
            store.close().await;
            let finding = match schema {
                Schema::Behind if settings.store.database_url.is_none() => {
                    Ok(format!("{place} has an older schema; `augur serve` brings it up to date"))
                }
                Schema::Behind => Err(format!("{place}: {}", Fatal::SCHEMA_BEHIND)),
                _ => Err(format!("{place}: {}", Fatal::SCHEMA_AHEAD)),
            };
            (None, finding)
        }
        Ok(Err(error)) => (None, Err(format!("{place}: {error}{}", if_postgres(settings)))),
        Err(_) => (None, Err(format!("{place} does not answer within {PATIENCE:?}{}", if_postgres(settings)))),
    }
}

/// Whether webhooks are sent, and whether the key opens the signing secrets that are stored.
async fn webhooks(settings: &Doctor, store: Option<&Store>) -> Finding {
    let place = KeyPlace::of(&settings.webhooks, &settings.store, &settings.data).map_err(|error| error.to_string())?;
    let Some(sealer) = place.found().map_err(|error| error.to_string())? else {
        return Ok(match place {
            KeyPlace::File(path) => format!("{} is made at the first start", path.display()),
            _ => "off, for there is no webhook key; --webhook-key (AUGUR_WEBHOOK_KEY) turns them on".to_owned(),
        });
    };
    settings.webhooks.allowed::<Network>().map_err(|error| error.to_string())?;
    let Some(store) = store else { return Ok("on; the stored signing secrets were not looked at".to_owned()) };
    match timeout(PATIENCE, closed_secrets(&sealer, store)).await {
        Ok(Ok((0, 0))) => Ok("on; no signing secret is stored yet".to_owned()),
        Ok(Ok((_, 0))) => Ok("on; the key opens the stored signing secrets".to_owned()),
        Ok(Ok((stored, closed))) => Err(format!(
            "the key opens {} of {stored} stored signing secrets; give the one they were stored under, \
             in --webhook-key (AUGUR_WEBHOOK_KEY) or in the file webhook.key of the data directory",
            stored - closed
        )),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("the stored signing secrets do not come within {PATIENCE:?}")),
    }
}

/// Whether requests need keys, and whether they may do without where the server would listen.
async fn keys(settings: &Doctor, store: Option<&Store>) -> Finding {
    let keys = match store {
        Some(store) => match timeout(PATIENCE, store.valid_api_keys()).await {
            Ok(keys) => keys.map_err(|error| error.to_string())?,
            Err(_) => return Err(format!("they do not come within {PATIENCE:?}")),
        },
        // What is not made yet has none; of what does not answer it is not known.
        None => None,
    };
    match keys {
        Some(keys) if keys.is_empty() => {
            Err("every key is revoked, so no request is answered; `augur keys create NAME` makes one".to_owned())
        }
        Some(keys) => Ok(format!("requests need one of {} keys", keys.len())),
        None if store.is_none() => Ok("not looked at".to_owned()),
        None => {
            settings.listen.check(false).map_err(|error| error.to_string())?;
            Ok("none was made, so requests need none; `augur keys create NAME` makes the first".to_owned())
        }
    }
}

/// How many signing secrets are stored, and how many of them the key does not open.
async fn closed_secrets(sealer: &Sealer, store: &Store) -> Result<(usize, usize), StoreError> {
    let is_closed = |secret: &&SealedSecret| sealer.open(&secret.sealed, &secret.tenant, &secret.endpoint).is_err();
    let keys = store.valid_api_keys().await?.unwrap_or_default();
    let (mut stored, mut closed) = (0, 0);
    for tenant in keys.iter().map(ApiKey::tenant).chain([String::new()]) {
        let endpoints = store.endpoints(&tenant, None, ENDPOINTS).await?.entries;
        let own = endpoints.iter().map(|endpoint| (tenant.as_str(), endpoint.url.as_str()));
        let of: Vec<(&str, &str)> = own.chain([(tenant.as_str(), "")]).collect();
        let secrets = store.secrets(&of).await?;
        stored += secrets.len();
        closed += secrets.iter().filter(is_closed).count();
    }
    Ok((stored, closed))
}

fn if_postgres(settings: &Doctor) -> &'static str {
    match settings.store.database_url {
        Some(_) => "; start Postgres there, or correct --database-url (DATABASE_URL)",
        None => "",
    }
}

async fn queue(settings: &Doctor) -> Finding {
    let Some(url) = &settings.queue.redis_url else {
        return Ok("in this process, for no Redis is named; workers elsewhere ask the database".to_owned());
    };
    let location = queue_location(&settings.queue);
    let queue = Queue::open(&location, queue::Config::default()).await.map_err(|error| format!("{url}: {error}"))?;
    // Connections are made in the background.
    let healthy = async {
        while !queue.is_healthy() {
            sleep(BETWEEN_LOOKS).await;
        }
    };
    match timeout(PATIENCE, healthy).await {
        Ok(()) => Ok(format!("{url} answers and can be written")),
        Err(_) => Err(format!(
            "{url} does not answer, asks for other credentials or cannot be written; start Redis there, or correct \
             --redis-url (REDIS_URL)"
        )),
    }
}

async fn models(settings: settings::ModelSettings) -> Finding {
    let models_dir = settings.dir.models_dir.clone();
    let config = model_config(settings).map_err(|fault| fault.to_string())?;
    match spawn_blocking(move || Models::load(&config)).await {
        Ok(Ok(models)) => {
            let named = |Offer { spec, is_default }: &Offer| match is_default {
                true => spec.name.to_string(),
                false => format!("{}:{}", spec.name, spec.version.short()),
            };
            let names: Vec<String> = models.offers().iter().map(named).collect();
            Ok(format!("{} load", names.join(", ")))
        }
        Ok(Err(error)) => {
            Err(format!("{}; correct the model, --models-dir or --model", all_broken(models_dir, error).await))
        }
        Err(error) => Err(format!("loading them failed: {error}")),
    }
}

/// Every model directory that is broken; the error that ended the loading where there is none, or this is the only one.
async fn all_broken(models_dir: PathBuf, first: LoadError) -> String {
    let listed = spawn_blocking(move || survey(&models_dir)).await;
    let listed = listed.ok().and_then(Result::ok).unwrap_or_default();
    let faults: Vec<String> =
        listed.into_iter().filter_map(|listed| listed.found.err()).map(|fault| fault.to_string()).collect();
    if faults.len() > 1 { faults.join("; ") } else { first.to_string() }
}
