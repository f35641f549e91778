-- Accepting a prediction locks nothing that others accept by. Checking this key took a shared lock on the version's row for
-- every prediction: a seventh of the cost of accepting one. The number always comes from that table, and nothing deletes from it.
ALTER TABLE predictions DROP CONSTRAINT predictions_version_id_fkey;
