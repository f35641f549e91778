-- API keys in one file: the same table and rules as migrations/postgres/0005_api_keys.sql, where they are explained.

CREATE TABLE api_keys (
    id         INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL,
    digest     BLOB    NOT NULL,
    share      REAL,
    created_at INTEGER NOT NULL,
    revoked_at INTEGER,
    CONSTRAINT api_keys_digest_once UNIQUE (digest),
    CONSTRAINT api_keys_digest_length CHECK (length(digest) = 32),
    CONSTRAINT api_keys_share_is_part CHECK (share > 0 AND share <= 1)
) STRICT;
CREATE UNIQUE INDEX api_keys_named_once ON api_keys (name) WHERE revoked_at IS NULL;

CREATE TRIGGER api_keys_kept BEFORE DELETE ON api_keys
BEGIN
    SELECT RAISE(ABORT, 'a key is revoked, never deleted');
END;

CREATE TRIGGER api_keys_revoked BEFORE UPDATE ON api_keys
WHEN OLD.revoked_at IS NOT NULL
BEGIN
    SELECT RAISE(ABORT, 'a revoked key stays revoked');
END;
