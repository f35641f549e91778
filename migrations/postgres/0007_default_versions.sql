-- Several versions of a model are served beside each other, and a worker says which one the model's name alone means.

-- In the order in which workers that publish meanwhile lock them.
LOCK TABLE versions, worker_models IN ACCESS EXCLUSIVE MODE;

ALTER TABLE worker_models ADD COLUMN is_default boolean NOT NULL DEFAULT true;

-- When a worker last began to say so: what the name means while nobody serves its default version.
ALTER TABLE versions ADD COLUMN default_at timestamptz;
UPDATE versions SET default_at = published_at;
