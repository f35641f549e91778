//! API keys as the store knows them: names, digests and shares, never a key itself.

use std::fmt::Display;

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

    /// Gives a key another text, in whose place the former is none any more; nothing when there is no valid key with this id.
    pub async fn rotate_api_key(&self, id: i32, digest: &[u8; 32]) -> Result<Option<ApiKey>, StoreError> {
        on_backend!(self, backend => backend.rotate_api_key(id, digest).await)
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
        let digest = self.digest.try_into();
        Ok(ApiKey {
            id: self.id,
            name: self.name,
            digest: digest.map_err(|digest: Vec<u8>| corrupt("a digest's length", digest.len()))?,
            share: self.share,
            created_at: moment(self.created_at)?,
            revoked_at: self.revoked_at.map(moment).transpose()?,
        })
    }
}
