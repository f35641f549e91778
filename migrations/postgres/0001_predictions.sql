-- The truth of augur: predictions, their payloads, and what workers publish.
--
-- Status codes (crate `prediction`, Status::code): 0 starting, 1 processing, 2 succeeded, 3 failed, 4 canceled.
-- The states and who moves between them are drawn in docs/states.md; the constraints and triggers here refuse the rest.
-- Every time in these tables is this server's own; no client clock is ever compared with another.

-- A version of a model, named by a small number so that the hot rows stay narrow. A row is made by the first
-- prediction for it or by the first worker that serves it; only the latter knows what it is.
CREATE TABLE versions (
    id           integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    model        text COLLATE "C" NOT NULL,
    version      text COLLATE "C" NOT NULL,
    spec         text,                          -- JSON of the published specification
    published_at timestamptz,
    CONSTRAINT versions_named_once UNIQUE (model, version),
    CONSTRAINT versions_spec_has_time CHECK ((spec IS NULL) = (published_at IS NULL))
);

-- The hot table: everything the state machine reads and writes, and nothing else.
CREATE TABLE predictions (
    id           uuid        PRIMARY KEY,
    created_at   timestamptz NOT NULL,
    -- Waiting rows are served by priority, then by this: the moment they became due. The time of acceptance at first,
    -- the end of the pause after a failure to be retried.
    not_before   timestamptz NOT NULL,
    queued_at    timestamptz,                   -- when its ticket was last queued; NULL: it has none
    deadline_at  timestamptz,
    claimed_at   timestamptz,                   -- start of the latest run
    started_at   timestamptz,                   -- start of the first run
    lease_until  timestamptz,
    completed_at timestamptz,
    expires_at   timestamptz,
    retention    interval    NOT NULL,          -- from the end to expires_at
    worker       uuid,
    version_id   integer     NOT NULL REFERENCES versions,
    -- The fence: raised by every claim, cancel and sweep, named by every later write of the run, never lowered.
    epoch        integer     NOT NULL DEFAULT 0,
    -- Four things counted apart, so that none can be mistaken for another or for the fence.
    attempts     integer     NOT NULL DEFAULT 0, -- times claimed
    retries      integer     NOT NULL DEFAULT 0, -- retryable failures spent
    crashes      integer     NOT NULL DEFAULT 0, -- leases that ran out while it ran alone
    releases     integer     NOT NULL DEFAULT 0, -- times handed back unfinished
    max_retries  integer     NOT NULL,
    status       smallint    NOT NULL DEFAULT 0,
    priority     smallint    NOT NULL,
    suspect      boolean     NOT NULL DEFAULT false, -- was held when a lease ran out: from now on it runs alone
    solo         boolean     NOT NULL DEFAULT false, -- runs alone now
    tenant       text COLLATE "C" NOT NULL,

    CONSTRAINT predictions_status_known CHECK (status BETWEEN 0 AND 4),
    CONSTRAINT predictions_priority_known CHECK (priority BETWEEN -1 AND 1),
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
) WITH (
    -- Room for the next version of a row on its own page: queueing its ticket then touches no index.
    fillfactor = 80,
    -- A queue's rows die young; dead ones in the way of the claim cost more than frequent vacuuming.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.05
);

-- The lines of waiting predictions, in the order in which they are served.
CREATE INDEX predictions_waiting ON predictions (version_id, priority DESC, not_before, id) WHERE status = 0;
-- Those that must run alone: few, and asked for by every idle worker.
CREATE INDEX predictions_suspects ON predictions (version_id, priority DESC, not_before, id) WHERE status = 0 AND suspect;
-- Leases by the time they run out: the sweep's first look finds nothing and costs nothing.
CREATE INDEX predictions_leases ON predictions (lease_until) WHERE status = 1;
CREATE INDEX predictions_deadlines ON predictions (deadline_at) WHERE status < 2 AND deadline_at IS NOT NULL;
-- The list of one tenant's predictions, newest first, read in either direction.
CREATE INDEX predictions_newest ON predictions (tenant, created_at DESC, id DESC);
-- The service rate: what runs have finished of late.
CREATE INDEX predictions_finished ON predictions (completed_at) WHERE status IN (2, 3);
CREATE INDEX predictions_expiry ON predictions (expires_at) WHERE status >= 2;

-- Payloads live apart, written once each, so that claiming and renewing never copy them. They carry no foreign key:
-- checking one costs more than the insert itself, and each is written in the same statement as the row it belongs to.
CREATE TABLE inputs (
    prediction_id uuid  PRIMARY KEY,
    input         text  NOT NULL,               -- JSON exactly as it came
    metadata      jsonb,
    fingerprint   bytea NOT NULL,               -- SHA-256 of the request
    CONSTRAINT inputs_fingerprint_length CHECK (octet_length(fingerprint) = 32),
    CONSTRAINT inputs_metadata_object CHECK (metadata IS NULL OR jsonb_typeof(metadata) = 'object')
);

-- One row per terminal prediction: the primary key is what makes a result exactly one.
CREATE TABLE outputs (
    prediction_id   uuid PRIMARY KEY,
    output          text,                       -- JSON; NULL unless it succeeded
    code            text COLLATE "C",           -- the failure, unless it succeeded
    message         text,
    retryable       boolean,
    logs            text NOT NULL DEFAULT '',
    predict_seconds double precision,
    batch_size      integer,
    tokens          integer,
    CONSTRAINT outputs_one_outcome CHECK ((output IS NULL) <> (code IS NULL)),
    CONSTRAINT outputs_whole_failure CHECK ((code IS NULL) = (message IS NULL) AND (code IS NULL) = (retryable IS NULL))
);

-- Who has used which idempotency key for what. Outlives the prediction when that is kept for a shorter time.
CREATE TABLE idempotency_keys (
    tenant        text COLLATE "C" NOT NULL,
    key           text COLLATE "C" NOT NULL,
    prediction_id uuid        NOT NULL,
    fingerprint   bytea       NOT NULL,
    created_at    timestamptz NOT NULL,
    PRIMARY KEY (tenant, key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);

CREATE TABLE workers (
    id      uuid        PRIMARY KEY,
    host    text        NOT NULL,
    stale   bigint      NOT NULL,               -- completions refused by the fence, as the worker counts them
    seen_at timestamptz NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE worker_models (
    worker_id  uuid    NOT NULL REFERENCES workers ON DELETE CASCADE,
    version_id integer NOT NULL REFERENCES versions,
    PRIMARY KEY (worker_id, version_id)
);

-- One row about this installation.
CREATE TABLE installation (
    only_row          boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    secret            bytea  NOT NULL CHECK (octet_length(secret) = 32),
    stale_completions bigint NOT NULL DEFAULT 0 -- of workers whose rows have been purged
);
-- gen_random_uuid() draws 122 bits from the server's strong source; three of them leave none of the 256 to guess.
INSERT INTO installation (secret)
VALUES (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())));

-- The rules that look at a change rather than at a row. Each trigger's WHEN is evaluated without calling the function,
-- so a legal change costs a few comparisons.
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0] USING ERRCODE = 'check_violation', CONSTRAINT = TG_NAME, TABLE = TG_TABLE_NAME;
END
$$;

CREATE TRIGGER predictions_begin BEFORE INSERT ON predictions FOR EACH ROW
WHEN (NEW.status <> 0 OR NEW.epoch <> 0)
EXECUTE FUNCTION refuse_change('a prediction begins as starting, at epoch 0');

CREATE TRIGGER predictions_edge BEFORE UPDATE ON predictions FOR EACH ROW
WHEN (OLD.status <> NEW.status AND OLD.status <> 1 AND NOT (OLD.status = 0 AND NEW.status IN (1, 4)))
EXECUTE FUNCTION refuse_change('the state machine has no such edge');

CREATE TRIGGER predictions_terminal BEFORE UPDATE ON predictions FOR EACH ROW
WHEN (OLD.status >= 2 AND (NEW.epoch <> OLD.epoch OR NEW.retries <> OLD.retries OR NEW.crashes <> OLD.crashes
      OR NEW.releases <> OLD.releases OR NEW.completed_at IS DISTINCT FROM OLD.completed_at))
EXECUTE FUNCTION refuse_change('a terminal prediction does not change');

CREATE TRIGGER predictions_fence BEFORE UPDATE ON predictions FOR EACH ROW
WHEN (NEW.epoch < OLD.epoch OR (NEW.epoch = OLD.epoch AND OLD.status <> NEW.status AND NEW.status IN (1, 4)))
EXECUTE FUNCTION refuse_change('the epoch never goes down, and every claim and cancel raises it');

CREATE TRIGGER predictions_counts BEFORE UPDATE ON predictions FOR EACH ROW
WHEN (NEW.attempts < OLD.attempts OR NEW.retries < OLD.retries OR NEW.crashes < OLD.crashes
      OR NEW.releases < OLD.releases OR (OLD.suspect AND NOT NEW.suspect))
EXECUTE FUNCTION refuse_change('counts never go down and a suspect stays one');

CREATE TRIGGER predictions_kept BEFORE DELETE ON predictions FOR EACH ROW
WHEN (OLD.status < 2)
EXECUTE FUNCTION refuse_change('an unfinished prediction is never deleted');

CREATE TRIGGER outputs_written_once BEFORE UPDATE ON outputs FOR EACH ROW
EXECUTE FUNCTION refuse_change('an outcome is written once');
