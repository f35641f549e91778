-- Which version a model's name alone means: as in migrations/postgres/0007_default_versions.sql, where it is explained.

ALTER TABLE worker_models ADD COLUMN is_default INTEGER NOT NULL DEFAULT 1 CHECK (is_default IN (0, 1));
ALTER TABLE versions ADD COLUMN default_at INTEGER;
UPDATE versions SET default_at = published_at;
