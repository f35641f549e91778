-- The truth of augur in one file: the same tables and rules as migrations/postgres/0001_predictions.sql, where each
-- is explained. Here ids are 16-byte blobs, and times are microseconds since 1970 by SQLite's own clock.
--
-- Status codes (crate `prediction`, Status::code): 0 starting, 1 processing, 2 succeeded, 3 failed, 4 canceled.

CREATE TABLE versions (
    id           INTEGER PRIMARY KEY,
    model        TEXT NOT NULL,
    version      TEXT NOT NULL,
    spec         TEXT,
    published_at INTEGER,
    CONSTRAINT versions_named_once UNIQUE (model, version),
    CONSTRAINT versions_spec_has_time CHECK ((spec IS NULL) = (published_at IS NULL))
) STRICT;

-- Without a rowid: one B-tree instead of two, and the ids made here arrive in order.
CREATE TABLE predictions (
    id           BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    created_at   INTEGER NOT NULL,
    not_before   INTEGER NOT NULL,              -- waiting rows are served by priority, then by this
    queued_at    INTEGER,
    deadline_at  INTEGER,
    claimed_at   INTEGER,
    started_at   INTEGER,
    lease_until  INTEGER,
    completed_at INTEGER,
    expires_at   INTEGER,
    retention    INTEGER NOT NULL,              -- microseconds
    worker       BLOB,
    version_id   INTEGER NOT NULL REFERENCES versions,
    epoch        INTEGER NOT NULL DEFAULT 0,
    attempts     INTEGER NOT NULL DEFAULT 0,
    retries      INTEGER NOT NULL DEFAULT 0,
    crashes      INTEGER NOT NULL DEFAULT 0,
    releases     INTEGER NOT NULL DEFAULT 0,
    max_retries  INTEGER NOT NULL,
    status       INTEGER NOT NULL DEFAULT 0,
    priority     INTEGER NOT NULL,
    suspect      INTEGER NOT NULL DEFAULT 0,
    solo         INTEGER NOT NULL DEFAULT 0,
    tenant       TEXT    NOT NULL,

    CONSTRAINT predictions_status_known CHECK (status BETWEEN 0 AND 4),
    CONSTRAINT predictions_priority_known CHECK (priority BETWEEN -1 AND 1),
    CONSTRAINT predictions_flags CHECK (suspect IN (0, 1) AND solo IN (0, 1)),
    CONSTRAINT predictions_counts_positive
        CHECK (epoch >= attempts AND attempts >= 0 AND retries >= 0 AND crashes >= 0 AND releases >= 0 AND max_retries >= 0),
    CONSTRAINT predictions_processing_has_worker CHECK ((status = 1) = (worker IS NOT NULL)),
    CONSTRAINT predictions_processing_has_lease CHECK ((status = 1) = (lease_until IS NOT NULL)),
    CONSTRAINT predictions_attempt_has_times
        CHECK ((attempts > 0) = (started_at IS NOT NULL) AND (attempts > 0) = (claimed_at IS NOT NULL)),
    CONSTRAINT predictions_solo_while_processing CHECK (NOT solo OR status = 1),
    CONSTRAINT predictions_suspect_runs_alone CHECK (status <> 1 OR suspect = solo),
    CONSTRAINT predictions_crash_makes_suspect CHECK (crashes = 0 OR suspect),
    CONSTRAINT predictions_terminal_has_end CHECK ((status >= 2) = (completed_at IS NOT NULL)),
    CONSTRAINT predictions_terminal_expires CHECK ((status >= 2) = (expires_at IS NOT NULL)),
    CONSTRAINT predictions_finished_was_claimed CHECK (status NOT IN (1, 2, 3) OR attempts > 0)
) STRICT, WITHOUT ROWID;

CREATE INDEX predictions_waiting ON predictions (version_id, priority DESC, not_before, id) WHERE status = 0;
CREATE INDEX predictions_suspects ON predictions (version_id, priority DESC, not_before, id) WHERE status = 0 AND suspect = 1;
CREATE INDEX predictions_leases ON predictions (lease_until) WHERE status = 1;
CREATE INDEX predictions_deadlines ON predictions (deadline_at) WHERE status < 2 AND deadline_at IS NOT NULL;
CREATE INDEX predictions_newest ON predictions (tenant, created_at DESC, id DESC);
CREATE INDEX predictions_finished ON predictions (completed_at) WHERE status IN (2, 3);
CREATE INDEX predictions_expiry ON predictions (expires_at) WHERE status >= 2;

CREATE TABLE inputs (
    prediction_id BLOB NOT NULL PRIMARY KEY,
    input         TEXT NOT NULL,
    metadata      TEXT,
    fingerprint   BLOB NOT NULL,
    CONSTRAINT inputs_fingerprint_length CHECK (length(fingerprint) = 32),
    CONSTRAINT inputs_metadata_object CHECK (metadata IS NULL OR json_type(metadata) = 'object')
) STRICT;

CREATE TABLE outputs (
    prediction_id   BLOB NOT NULL PRIMARY KEY,
    output          TEXT,
    code            TEXT,
    message         TEXT,
    retryable       INTEGER,
    logs            TEXT NOT NULL DEFAULT '',
    predict_seconds REAL,
    batch_size      INTEGER,
    tokens          INTEGER,
    CONSTRAINT outputs_one_outcome CHECK ((output IS NULL) <> (code IS NULL)),
    CONSTRAINT outputs_whole_failure CHECK ((code IS NULL) = (message IS NULL) AND (code IS NULL) = (retryable IS NULL))
) STRICT;

CREATE TABLE idempotency_keys (
    tenant        TEXT    NOT NULL,
    key           TEXT    NOT NULL,
    prediction_id BLOB    NOT NULL,
    fingerprint   BLOB    NOT NULL,
    created_at    INTEGER NOT NULL,
    PRIMARY KEY (tenant, key)
) STRICT, WITHOUT ROWID;
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

CREATE TABLE workers (
    id      BLOB    NOT NULL PRIMARY KEY,
    host    TEXT    NOT NULL,
    stale   INTEGER NOT NULL,
    seen_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE worker_models (
    worker_id  BLOB    NOT NULL REFERENCES workers ON DELETE CASCADE,
    version_id INTEGER NOT NULL REFERENCES versions,
    PRIMARY KEY (worker_id, version_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE installation (
    only_row          INTEGER NOT NULL PRIMARY KEY DEFAULT 1 CHECK (only_row = 1),
    secret            BLOB    NOT NULL CHECK (length(secret) = 32),
    stale_completions INTEGER NOT NULL DEFAULT 0
) STRICT;
-- SQLite's generator is ChaCha20, seeded by the operating system.
INSERT INTO installation (secret) VALUES (randomblob(32));

-- The rules that look at a change rather than at a row.
CREATE TRIGGER predictions_begin BEFORE INSERT ON predictions
WHEN NEW.status <> 0 OR NEW.epoch <> 0
BEGIN
    SELECT RAISE(ABORT, 'a prediction begins as starting, at epoch 0');
END;

CREATE TRIGGER predictions_edge BEFORE UPDATE ON predictions
WHEN OLD.status <> NEW.status AND OLD.status <> 1 AND NOT (OLD.status = 0 AND NEW.status IN (1, 4))
BEGIN
    SELECT RAISE(ABORT, 'the state machine has no such edge');
END;

CREATE TRIGGER predictions_terminal BEFORE UPDATE ON predictions
WHEN OLD.status >= 2 AND (NEW.epoch <> OLD.epoch OR NEW.retries <> OLD.retries OR NEW.crashes <> OLD.crashes
     OR NEW.releases <> OLD.releases OR NEW.completed_at IS NOT OLD.completed_at)
BEGIN
    SELECT RAISE(ABORT, 'a terminal prediction does not change');
END;

CREATE TRIGGER predictions_fence BEFORE UPDATE ON predictions
WHEN NEW.epoch < OLD.epoch OR (NEW.epoch = OLD.epoch AND OLD.status <> NEW.status AND NEW.status IN (1, 4))
BEGIN
    SELECT RAISE(ABORT, 'the epoch never goes down, and every claim and cancel raises it');
END;

CREATE TRIGGER predictions_counts BEFORE UPDATE ON predictions
WHEN NEW.attempts < OLD.attempts OR NEW.retries < OLD.retries OR NEW.crashes < OLD.crashes
     OR NEW.releases < OLD.releases OR (OLD.suspect AND NOT NEW.suspect)
BEGIN
    SELECT RAISE(ABORT, 'counts never go down and a suspect stays one');
END;

CREATE TRIGGER predictions_kept BEFORE DELETE ON predictions
WHEN OLD.status < 2
BEGIN
    SELECT RAISE(ABORT, 'an unfinished prediction is never deleted');
END;

CREATE TRIGGER outputs_written_once BEFORE UPDATE ON outputs
BEGIN
    SELECT RAISE(ABORT, 'an outcome is written once');
END;
