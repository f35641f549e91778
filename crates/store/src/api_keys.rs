//! API keys as the store knows them: names, digests and shares, never a key itself.

use std::{fmt::Display, time::Duration};

use time::OffsetDateTime;

use crate::{
    Backend, Store, StoreError,
    rows::{corrupt, moment},
};

/// An API key, without its text.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiKey {
    /// Its id, small and never used again.
    pub id: i32,
    /// What people call it; no two keys that are valid have the same.
    pub name: String,
    /// SHA-256 of its text.
    pub digest: [u8; 32],
    /// The most of the queue that it may fill, above 0 and up to 1; none: what servers are set to.
    pub share: Option<f64>,
    /// When it was made.
    pub created_at: OffsetDateTime,
    /// Since when it is valid no more.
    pub revoked_at: Option<OffsetDateTime>,
}

/// What was a key's text until it was rotated, and is as good as the one that took its place until its grace has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct FormerApiKey {
    /// The key's id.
    pub key_id: i32,
    /// SHA-256 of the text.
    pub digest: [u8; 32],
    /// When its grace ends…
    pub expires_at: OffsetDateTime,
    /// …and how long that is from now, by the database's clock.
    pub expires_in: Duration,
}

impl ApiKey {
    /// The tenant that all belongs to which is made with it.
    #[must_use]
    pub fn tenant(&self) -> String {
        self.id.to_string()
    }
}

/// # Errors
/// As with every call on the store.
impl Store {
    /// Adds a key; nothing when a valid one has that name.
    pub async fn add_api_key(
        &self,
        name: &str,
        digest: &[u8; 32],
        share: Option<f64>,
    ) -> Result<Option<ApiKey>, StoreError> {
        on_backend!(self, backend => backend.add_api_key(name, digest, share).await)
    }

    /// Every key there ever was, in the order in which they were made.
    pub async fn api_keys(&self) -> Result<Vec<ApiKey>, StoreError> {
        on_backend!(self, backend => backend.api_keys().await)
    }

    /// The keys that are valid; nothing while there has never been any.
    pub async fn valid_api_keys(&self) -> Result<Option<Vec<ApiKey>>, StoreError> {
        on_backend!(self, backend => backend.valid_api_keys().await)
    }

    /// The former texts of valid keys whose grace has not ended. Asked for after the valid keys, so that what is rotated in between
    /// is among either.
    pub async fn former_api_keys(&self) -> Result<Vec<FormerApiKey>, StoreError> {
        on_backend!(self, backend => backend.former_api_keys().await)
    }

    /// Gives a key another text; nothing when there is no valid key with this id. The former text stays good
    /// for `grace`; those before it end then at the latest, without any at once.
    pub async fn rotate_api_key(
        &self,
        id: i32,
        digest: &[u8; 32],
        grace: Duration,
    ) -> Result<Option<ApiKey>, StoreError> {
        on_backend!(self, backend => backend.rotate_api_key(id, digest, grace).await)
    }

    /// Revokes a key for good; nothing when there is no valid one with this id.
    pub async fn revoke_api_key(&self, id: i32) -> Result<Option<ApiKey>, StoreError> {
        on_backend!(self, backend => backend.revoke_api_key(id).await)
    }
}

/// Every key, in either database.
pub(crate) const ALL: &str = "SELECT id, name, digest, share, created_at, revoked_at FROM api_keys ORDER BY id";

/// Those that are valid, in either database.
pub(crate) const VALID: &str =
    "SELECT id, name, digest, share, created_at, revoked_at FROM api_keys WHERE revoked_at IS NULL ORDER BY id";

/// A key as both databases return it; `T` is the database's kind of time.
#[derive(sqlx::FromRow)]
pub(crate) struct ApiKeyRow<T> {
    id: i32,
    name: String,
    digest: Vec<u8>,
    share: Option<f64>,
    created_at: T,
    revoked_at: Option<T>,
}

impl<T> ApiKeyRow<T>
where
    T: TryInto<OffsetDateTime>,
    T::Error: Display,
{
    pub(crate) fn into_key(self) -> Result<ApiKey, StoreError> {
        Ok(ApiKey {
            id: self.id,
            name: self.name,
            digest: digest(self.digest)?,
            share: self.share,
            created_at: moment(self.created_at)?,
            revoked_at: self.revoked_at.map(moment).transpose()?,
        })
    }
}

/// A former text as both databases return it; `T` is the database's kind of time.
#[derive(sqlx::FromRow)]
pub(crate) struct FormerRow<T> {
    key_id: i32,
    digest: Vec<u8>,
    expires_at: T,
    left_micros: i64,
}

impl<T> FormerRow<T>
where
    T: TryInto<OffsetDateTime>,
    T::Error: Display,
{
    pub(crate) fn into_former(self) -> Result<FormerApiKey, StoreError> {
        Ok(FormerApiKey {
            key_id: self.key_id,
            digest: digest(self.digest)?,
            expires_at: moment(self.expires_at)?,
            expires_in: Duration::from_micros(u64::try_from(self.left_micros).unwrap_or(0)),
        })
    }
}

fn digest(stored: Vec<u8>) -> Result<[u8; 32], StoreError> {
    stored.try_into().map_err(|stored: Vec<u8>| corrupt("a digest's length", stored.len()))
}
