//! `augur keys`: API keys are made, listed and revoked in the store, beside servers that use it.

use std::io::{self, Write};

use api::PlainKey;
use serde_json::{Value, json};
use settings::{CreateKey, DataSettings, Fatal, KeysCommand, ListKeys, NamedKey, RotateKey, StoreSettings, say};
use store::{ApiKey, FormerApiKey, Store};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::parts::{open_store_beside, store_location};

/// Does what is asked.
pub(crate) async fn keys(command: KeysCommand) -> Result<(), Fatal> {
    match command {
        KeysCommand::Create(settings) => create(settings).await,
        KeysCommand::Ls(settings) => list(settings).await,
        KeysCommand::Rotate(settings) => rotate(settings).await,
        KeysCommand::Revoke(settings) => revoke(settings).await,
    }
}

async fn create(settings: CreateKey) -> Result<(), Fatal> {
    let store = open_store_beside(&store_location(&settings.store, &settings.data)).await?;
    let (text, name) = (PlainKey::generate(), &settings.name);
    let made = store.add_api_key(name, &text.digest(), settings.share).await?;
    let key = made.ok_or_else(|| {
        let advice =
            format!("`augur keys rotate {name}` gives it another text, `augur keys revoke {name}` frees its name");
        Fatal::new(format!("there is a key {name} already; {advice}"))
    })?;
    // Before anything else can fail: it is nowhere else.
    show(&key, &text)?;
    let is_first = store.api_keys().await?.len() == 1;
    store.close().await;
    if is_first {
        writeln!(io::stderr(), "It is the first one: from now on every request needs a key.")?;
    }
    Ok(())
}

async fn rotate(RotateKey { overlap, named }: RotateKey) -> Result<(), Fatal> {
    let store = existing(&named.store, &named.data).await?;
    let text = PlainKey::generate();
    let rotated = match valid(&store, &named.key).await? {
        Some(id) => store.rotate_api_key(id, &text.digest(), overlap.unwrap_or_default()).await?,
        None => None,
    };
    let key = rotated.ok_or_else(|| none(&named.key))?;
    // Before anything else can fail: it is nowhere else.
    show(&key, &text)?;
    let former = store.former_api_keys().await?;
    store.close().await;
    match ends(&key, &former).as_slice() {
        [] => {}
        [until] => writeln!(io::stderr(), "Its former text is good until {}.", written(*until)?)?,
        [first, .., last] => {
            let (first, last) = (written(*first)?, written(*last)?);
            writeln!(io::stderr(), "Its former texts are good until {last}, the first to end until {first}.")?;
        }
    }
    Ok(())
}

/// The key alone on standard output, so that a shell can take it; what there is to say beside it.
fn show(key: &ApiKey, text: &PlainKey) -> Result<(), Fatal> {
    say(text.reveal());
    let ApiKey { name, id, .. } = key;
    writeln!(io::stderr(), "This is the key {name} ({id}). It is stored nowhere: it cannot be shown again.")?;
    Ok(())
}

async fn list(settings: ListKeys) -> Result<(), Fatal> {
    let store = existing(&settings.store, &settings.data).await?;
    let (keys, former) = (store.api_keys().await?, store.former_api_keys().await?);
    store.close().await;
    if settings.print.json {
        say(keys.iter().map(|key| as_json(key, &former)).collect::<Result<Value, Fatal>>()?);
        return Ok(());
    }
    let mut rows = vec![["ID", "NAME", "SHARE", "CREATED", "FORMER UNTIL", "REVOKED"].map(str::to_owned)];
    for key in &keys {
        let share = key.share.map_or_else(|| "usual".to_owned(), |share| share.to_string());
        let revoked = key.revoked_at.map_or_else(|| Ok(String::new()), written)?;
        let former = ends(key, &former).last().copied().map_or_else(|| Ok(String::new()), written)?;
        rows.push([key.id.to_string(), key.name.clone(), share, written(key.created_at)?, former, revoked]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let [id, name, share, created, former] = [0, 1, 2, 3, 4].map(width);
    for row in &rows {
        let [row_id, row_name, row_share, row_created, row_former, revoked] = row;
        let line = format!(
            "{row_id:>id$}  {row_name:name$}  {row_share:share$}  {row_created:created$}  {row_former:former$}  {revoked}"
        );
        say(line.trim_end());
    }
    Ok(())
}

async fn revoke(settings: NamedKey) -> Result<(), Fatal> {
    let store = existing(&settings.store, &settings.data).await?;
    let revoked = match valid(&store, &settings.key).await? {
        Some(id) => store.revoke_api_key(id).await?,
        None => None,
    };
    store.close().await;
    let ApiKey { name, id, .. } = revoked.ok_or_else(|| none(&settings.key))?;
    say(format_args!("revoked the key {name} ({id}); running servers refuse it within two seconds"));
    Ok(())
}

/// The id of the valid key that has this name or id.
async fn valid(store: &Store, named: &str) -> Result<Option<i32>, Fatal> {
    let keys = store.valid_api_keys().await?.unwrap_or_default();
    let meant = keys.iter().find(|key| key.name == named || key.id.to_string() == named);
    Ok(meant.map(|key| key.id))
}

fn none(named: &str) -> Fatal {
    Fatal::new(format!("there is no valid key {named:?}; `augur keys ls` lists those that are"))
}

/// The store that is there already: what only looks makes none.
async fn existing(store: &StoreSettings, data: &DataSettings) -> Result<Store, Fatal> {
    match store_location(store, data) {
        store::Location::Sqlite { path } if !path.exists() => Err(Fatal::new(format!(
            "there is no {}; --data-dir names another directory, --database-url (DATABASE_URL) a Postgres",
            path.display()
        ))),
        location => open_store_beside(&location).await,
    }
}

/// When the key's former texts end, the first first.
fn ends(key: &ApiKey, former: &[FormerApiKey]) -> Vec<OffsetDateTime> {
    former.iter().filter(|former| former.key_id == key.id).map(|former| former.expires_at).collect()
}

fn as_json(key: &ApiKey, former: &[FormerApiKey]) -> Result<Value, Fatal> {
    Ok(json!({
        "id": key.id,
        "name": key.name,
        "share": key.share,
        "created_at": written(key.created_at)?,
        "revoked_at": key.revoked_at.map(written).transpose()?,
        "former_expire_at": ends(key, former).into_iter().map(written).collect::<Result<Vec<_>, Fatal>>()?,
    }))
}

/// To the second, as people read it.
fn written(at: OffsetDateTime) -> Result<String, Fatal> {
    Ok(at.truncate_to_second().format(&Rfc3339)?)
}
