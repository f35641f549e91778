-- As migrations/postgres/0009_claimed_when_stored.sql, where it is explained.
DROP TRIGGER predictions_begin;
CREATE TRIGGER predictions_begin BEFORE INSERT ON predictions
WHEN NEW.status NOT IN (0, 1) OR NEW.epoch <> NEW.status OR NEW.attempts <> NEW.status OR NEW.suspect <> 0
     OR (NEW.retries | NEW.crashes | NEW.releases) <> 0
BEGIN
    SELECT RAISE(ABORT, 'a prediction begins as starting, with nothing counted, or as processing, in its first run');
END;
