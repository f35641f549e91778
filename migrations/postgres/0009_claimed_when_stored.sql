-- A worker in the process that accepts a prediction may claim it in the transaction that stores it.
DROP TRIGGER predictions_begin ON predictions;
CREATE TRIGGER predictions_begin BEFORE INSERT ON predictions FOR EACH ROW
WHEN (NEW.status NOT IN (0, 1) OR NEW.epoch <> NEW.status OR NEW.attempts <> NEW.status OR NEW.suspect
      OR (NEW.retries | NEW.crashes | NEW.releases) <> 0)
EXECUTE FUNCTION refuse_change('a prediction begins as starting, with nothing counted, or as processing, in its first run');
