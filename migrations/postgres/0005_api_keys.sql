-- API keys. A key's id, as text, is the tenant of all that is made with it; without keys that is the empty text. So nothing else
-- changes: what is made belongs to a tenant already.

CREATE TABLE api_keys (
    id         integer     GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text COLLATE "C" NOT NULL,
    digest     bytea       NOT NULL,             -- SHA-256 of the key, which is nowhere: it has 256 random bits, so none can be tried
    share      double precision,                 -- its most of the queue; NULL: as the servers' settings say
    created_at timestamptz NOT NULL,
    revoked_at timestamptz,
    CONSTRAINT api_keys_digest_once UNIQUE (digest),
    CONSTRAINT api_keys_digest_length CHECK (octet_length(digest) = 32),
    CONSTRAINT api_keys_share_is_part CHECK (share > 0 AND share <= 1)
);
-- A name is free again once its key is revoked.
CREATE UNIQUE INDEX api_keys_named_once ON api_keys (name) WHERE revoked_at IS NULL;

-- While there is any row, requests need a key: the last key that is revoked must not open the door.
CREATE TRIGGER api_keys_kept BEFORE DELETE ON api_keys FOR EACH ROW
EXECUTE FUNCTION refuse_change('a key is revoked, never deleted');

CREATE TRIGGER api_keys_revoked BEFORE UPDATE ON api_keys FOR EACH ROW
WHEN (OLD.revoked_at IS NOT NULL)
EXECUTE FUNCTION refuse_change('a revoked key stays revoked');
