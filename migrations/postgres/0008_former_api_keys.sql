-- A key that is rotated may keep its former text for a while, so that whoever uses it can be given the new one meanwhile.

CREATE TABLE former_api_keys (
    digest     bytea       PRIMARY KEY,          -- SHA-256 of the text, as in api_keys
    key_id     integer     NOT NULL REFERENCES api_keys (id),
    expires_at timestamptz NOT NULL,             -- until then it is as good as the text that took its place
    CONSTRAINT former_api_keys_digest_length CHECK (octet_length(digest) = 32)
);
