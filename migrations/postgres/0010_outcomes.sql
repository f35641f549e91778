-- The outcome of a prediction is in its row. In a table of its own it had an index that every completion wrote and every poll read:
-- a sixth of what a completion cost, and a third of the pages that a poll of an old prediction read. Claims and renewals still
-- copy none of it, since a row that has an outcome changes no more.

-- One lock for whoever changes predictions or reads both tables meanwhile, in the order in which they take them.
LOCK TABLE predictions, outputs IN ACCESS EXCLUSIVE MODE;

ALTER TABLE predictions
    ADD COLUMN output          text,                -- JSON; of those that succeeded
    ADD COLUMN code            text COLLATE "C",    -- the failure; of those that failed or were canceled
    ADD COLUMN message         text,
    ADD COLUMN retryable       boolean,
    ADD COLUMN logs            text,
    ADD COLUMN predict_seconds double precision,
    ADD COLUMN batch_size      integer,
    ADD COLUMN tokens          integer;

DO $$
BEGIN
    ALTER TABLE predictions ALTER COLUMN output SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END
$$;

-- Nobody looks for predictions by these, so nobody has to know how they are spread.
ALTER TABLE predictions
    ALTER COLUMN output SET STATISTICS 0,
    ALTER COLUMN message SET STATISTICS 0,
    ALTER COLUMN logs SET STATISTICS 0;

-- What is too long for a row is apart, and is vacuumed as seldom as a table that is read only by its ids: not as rows of a queue.
ALTER TABLE predictions SET (toast.autovacuum_vacuum_scale_factor = 0.2);

-- All of it at once; our sessions look rows up one by one.
SET LOCAL enable_seqscan = on;
SET LOCAL enable_hashjoin = on;
SET LOCAL enable_mergejoin = on;
UPDATE predictions
SET output = outputs.output, code = outputs.code, message = outputs.message, retryable = outputs.retryable,
    logs = NULLIF(outputs.logs, ''), predict_seconds = outputs.predict_seconds, batch_size = outputs.batch_size,
    tokens = outputs.tokens
FROM outputs
WHERE prediction_id = id AND status >= 2;

DO $$
DECLARE
    damaged text;
BEGIN
    SELECT string_agg(id::text, ', ') INTO damaged
    FROM (SELECT id FROM predictions WHERE status >= 2 AND num_nonnulls(output, code) <> 1 LIMIT 10) AS found;
    IF damaged IS NOT NULL THEN
        RAISE EXCEPTION 'these predictions are over and have no outcome; give them one in table outputs, or delete them: %', damaged;
    END IF;
END
$$;

DROP TABLE outputs;

-- What goes together in a row, status by status: exactly one outcome, once it is over.
ALTER TABLE predictions
    DROP CONSTRAINT predictions_whole_status,
    ADD CONSTRAINT predictions_whole_status CHECK (
        CASE status
            WHEN 0 THEN num_nonnulls(worker, lease_until, completed_at, expires_at, output, code, message, retryable, logs,
                                     predict_seconds, batch_size, tokens) = 0 AND NOT solo
            WHEN 1 THEN num_nonnulls(worker, lease_until) = 2
                AND num_nonnulls(completed_at, expires_at, output, code, message, retryable, logs, predict_seconds, batch_size,
                                 tokens) = 0 AND solo = suspect
            WHEN 2 THEN num_nonnulls(completed_at, expires_at, output) = 3
                AND num_nonnulls(worker, lease_until, code, message, retryable) = 0 AND NOT solo
            ELSE num_nonnulls(completed_at, expires_at, code, message, retryable) = 5
                AND num_nonnulls(worker, lease_until, output) = 0 AND NOT solo AND status IN (3, 4)
        END
    );

-- Written once, with the end.
DROP TRIGGER predictions_terminal ON predictions;
CREATE TRIGGER predictions_terminal
BEFORE UPDATE OF status, epoch, attempts, retries, crashes, releases, completed_at,
    output, code, message, retryable, logs, predict_seconds, batch_size, tokens ON predictions
FOR EACH ROW WHEN (OLD.status >= 2)
EXECUTE FUNCTION refuse_change('a terminal prediction does not change');

-- Nor is an outcome given to another prediction.
DROP TRIGGER predictions_asked_once ON predictions;
CREATE TRIGGER predictions_asked_once BEFORE UPDATE OF id, tenant, version_id, priority, max_retries, webhook_events ON predictions
FOR EACH ROW EXECUTE FUNCTION refuse_change('what was asked for does not change');
