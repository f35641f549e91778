-- The same rules in fewer words: a column is named once. Postgres keeps a rule as the text of its tree and reads it anew for each
-- statement that could break it, whatever that carries; these two were 14 KB of text, and more than half of what a statement with one
-- prediction took to run. (A function that is read once in a session costs as much, where each statement is a transaction.)

-- What goes together in a row, status by status: exactly one outcome, once it is over. Each digit counts those of a group that are there.
-- A status that does not exist has no such number.
ALTER TABLE predictions
    DROP CONSTRAINT predictions_whole_status,
    ADD CONSTRAINT predictions_whole_status CHECK (
        num_nonnulls(worker, lease_until)
            + 10 * num_nonnulls(completed_at, expires_at)
            + 100 * num_nonnulls(output)
            + 1000 * num_nonnulls(code, message, retryable)
            IS NOT DISTINCT FROM ('{0, 2, 120, 3020, 3020}'::integer[])[status + 1]
        AND (status > 1 OR num_nonnulls(logs, predict_seconds, batch_size, tokens) = 0)
        AND solo = (status = 1 AND suspect)
    ),
    DROP CONSTRAINT predictions_whole_runs,
    ADD CONSTRAINT predictions_whole_runs CHECK (
        num_nonnulls(NULLIF(attempts, 0), claimed_at, started_at) IN (0, 3)
        AND (attempts > 0 OR status IN (0, 4))
        AND (suspect OR crashes = 0)
    );
