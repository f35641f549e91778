-- The same rules for less. Every statement that writes reads the expressions of all constraints of its table, and of those triggers
-- whose columns it sets, once, whatever it carries: with thirty rows a statement that was a fifth of the work.

-- What goes together in a row, status by status.
ALTER TABLE predictions
    DROP CONSTRAINT predictions_status_known,
    DROP CONSTRAINT predictions_priority_known,
    DROP CONSTRAINT predictions_counts_positive,
    DROP CONSTRAINT predictions_processing_has_worker,
    DROP CONSTRAINT predictions_processing_has_lease,
    DROP CONSTRAINT predictions_attempt_has_times,
    DROP CONSTRAINT predictions_solo_while_processing,
    DROP CONSTRAINT predictions_suspect_runs_alone,
    DROP CONSTRAINT predictions_crash_makes_suspect,
    DROP CONSTRAINT predictions_terminal_has_end,
    DROP CONSTRAINT predictions_terminal_expires,
    DROP CONSTRAINT predictions_finished_was_claimed,
    DROP CONSTRAINT predictions_webhook_events_known,
    ADD CONSTRAINT predictions_whole_status CHECK (
        CASE status
            WHEN 0 THEN num_nonnulls(worker, lease_until, completed_at, expires_at) = 0 AND NOT solo
            WHEN 1 THEN num_nonnulls(worker, lease_until) = 2 AND num_nonnulls(completed_at, expires_at) = 0 AND solo = suspect
            ELSE num_nonnulls(completed_at, expires_at) = 2 AND num_nonnulls(worker, lease_until) = 0 AND NOT solo
                AND status BETWEEN 2 AND 4
        END
    ),
    ADD CONSTRAINT predictions_whole_runs CHECK (
        CASE WHEN attempts = 0 THEN num_nonnulls(claimed_at, started_at) = 0 AND status IN (0, 4)
            ELSE num_nonnulls(claimed_at, started_at) = 2 END
        AND (suspect OR crashes = 0)
    );

ALTER TABLE outputs
    DROP CONSTRAINT outputs_one_outcome,
    DROP CONSTRAINT outputs_whole_failure,
    ADD CONSTRAINT outputs_one_outcome CHECK (num_nonnulls(code, message, retryable) = CASE WHEN output IS NULL THEN 3 ELSE 0 END);

ALTER TABLE inputs
    DROP CONSTRAINT inputs_whole_webhook,
    ADD CONSTRAINT inputs_whole_webhook CHECK (num_nonnulls(webhook_url, webhook_endpoint, webhook_origin) IN (0, 3));

-- What was asked for is looked at once, and is not changed any more.
DROP TRIGGER predictions_begin ON predictions;
CREATE TRIGGER predictions_begin BEFORE INSERT ON predictions FOR EACH ROW
WHEN (NEW.status <> 0 OR (NEW.epoch | NEW.attempts | NEW.retries | NEW.crashes | NEW.releases) <> 0)
EXECUTE FUNCTION refuse_change('a prediction begins as starting, at epoch 0, with nothing counted');

CREATE TRIGGER predictions_asked BEFORE INSERT ON predictions FOR EACH ROW
WHEN (NEW.priority NOT BETWEEN -1 AND 1 OR NEW.max_retries < 0
      OR NEW.webhook_events & 30 <> NEW.webhook_events) -- nobody asks for tests
EXECUTE FUNCTION refuse_change('a priority is -1, 0 or 1; retries are counted from 0; events are start, output, logs, completed');

CREATE TRIGGER predictions_asked_once BEFORE UPDATE OF tenant, version_id, priority, max_retries, webhook_events ON predictions
FOR EACH ROW EXECUTE FUNCTION refuse_change('what was asked for does not change');

-- A rule about a change is tested only by statements that set its columns.
DROP TRIGGER predictions_edge ON predictions;
CREATE TRIGGER predictions_edge BEFORE UPDATE OF status ON predictions FOR EACH ROW
WHEN (OLD.status = 0 AND NEW.status IN (2, 3))
EXECUTE FUNCTION refuse_change('the state machine has no such edge');

DROP TRIGGER predictions_terminal ON predictions;
CREATE TRIGGER predictions_terminal BEFORE UPDATE OF status, epoch, attempts, retries, crashes, releases, completed_at ON predictions
FOR EACH ROW WHEN (OLD.status >= 2)
EXECUTE FUNCTION refuse_change('a terminal prediction does not change');

DROP TRIGGER predictions_fence ON predictions;
CREATE TRIGGER predictions_fence BEFORE UPDATE OF status, epoch ON predictions FOR EACH ROW
WHEN (NEW.epoch < OLD.epoch OR (NEW.epoch = OLD.epoch AND OLD.status <> NEW.status AND NEW.status IN (1, 4)))
EXECUTE FUNCTION refuse_change('the epoch never goes down, and every claim and cancel raises it');

DROP TRIGGER predictions_counts ON predictions;
CREATE TRIGGER predictions_counts BEFORE UPDATE OF retries, crashes, releases, suspect ON predictions FOR EACH ROW
WHEN (NEW.retries < OLD.retries OR NEW.crashes < OLD.crashes OR NEW.releases < OLD.releases
      OR (OLD.suspect AND NOT NEW.suspect))
EXECUTE FUNCTION refuse_change('counts never go down and a suspect stays one');
CREATE TRIGGER predictions_attempts BEFORE UPDATE OF attempts ON predictions FOR EACH ROW
WHEN (NEW.attempts < OLD.attempts OR NEW.attempts > NEW.epoch)
EXECUTE FUNCTION refuse_change('attempts never go down, and each has an epoch');

-- The list is read from the table that is written once: an index on the hot table is written with every change of a row. And the
-- hot table is left with one index that has all its rows, so whatever finds a row by its id goes by that one.
DROP INDEX predictions_newest;
ALTER TABLE inputs
    ADD COLUMN tenant     text COLLATE "C",
    ADD COLUMN created_at timestamptz;
UPDATE inputs SET tenant = predictions.tenant, created_at = predictions.created_at FROM predictions WHERE id = prediction_id;
ALTER TABLE inputs
    ALTER COLUMN tenant SET NOT NULL,
    ALTER COLUMN created_at SET NOT NULL;
CREATE INDEX inputs_newest ON inputs (tenant, created_at DESC, prediction_id DESC);
