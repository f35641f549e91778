-- Former texts of API keys: as in migrations/postgres/0008_former_api_keys.sql, where they are explained.

CREATE TABLE former_api_keys (
    digest     BLOB    NOT NULL PRIMARY KEY,
    key_id     INTEGER NOT NULL REFERENCES api_keys (id),
    expires_at INTEGER NOT NULL,
    CONSTRAINT former_api_keys_digest_length CHECK (length(digest) = 32)
) STRICT;
