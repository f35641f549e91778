-- Webhooks in one file: the same tables and rules as migrations/postgres/0002_webhooks.sql, where each is explained.
--
-- Event codes (crate `prediction`, Event::code): 0 test, 1 start, 2 output, 3 logs, 4 completed.
-- Delivery status codes (DeliveryStatus::code): 0 waiting, 1 sending, 2 delivered, 3 exhausted, 4 disabled.
-- Body form codes (BodyForm::code): 0 the prediction, 1 {type, timestamp, data}.

ALTER TABLE predictions ADD COLUMN webhook_events INTEGER NOT NULL DEFAULT 0
    CONSTRAINT predictions_webhook_events_known CHECK (webhook_events BETWEEN 0 AND 30 AND webhook_events % 2 = 0);

ALTER TABLE inputs ADD COLUMN webhook_url TEXT;
ALTER TABLE inputs ADD COLUMN webhook_endpoint TEXT;
ALTER TABLE inputs ADD COLUMN webhook_origin TEXT
    CONSTRAINT inputs_whole_webhook
        CHECK ((webhook_url IS NULL) = (webhook_endpoint IS NULL) AND (webhook_url IS NULL) = (webhook_origin IS NULL));

CREATE TABLE deliveries (
    prediction_id BLOB    NOT NULL,
    created_at    INTEGER NOT NULL,
    due_at        INTEGER NOT NULL,
    begun_at      INTEGER NOT NULL,
    lease_until   INTEGER,
    completed_at  INTEGER,
    sender        BLOB,
    epoch         INTEGER NOT NULL DEFAULT 0,
    attempts      INTEGER NOT NULL DEFAULT 0,
    round         INTEGER NOT NULL DEFAULT 0,
    event         INTEGER NOT NULL,
    status        INTEGER NOT NULL DEFAULT 0,
    tenant        TEXT    NOT NULL,
    url           TEXT    NOT NULL,
    endpoint      TEXT    NOT NULL,
    origin        TEXT    NOT NULL,
    PRIMARY KEY (prediction_id, event),

    CONSTRAINT deliveries_prediction_length CHECK (length(prediction_id) = 16),
    CONSTRAINT deliveries_event_known CHECK (event BETWEEN 0 AND 4),
    CONSTRAINT deliveries_status_known CHECK (status BETWEEN 0 AND 4),
    CONSTRAINT deliveries_counts_positive CHECK (epoch >= 0 AND round >= 0 AND attempts >= round),
    CONSTRAINT deliveries_sending_has_sender CHECK ((status = 1) = (sender IS NOT NULL)),
    CONSTRAINT deliveries_sending_has_lease CHECK ((status = 1) = (lease_until IS NOT NULL)),
    CONSTRAINT deliveries_over_has_end CHECK ((status >= 2) = (completed_at IS NOT NULL)),
    CONSTRAINT deliveries_delivered_was_tried CHECK (status <> 2 OR round > 0)
) STRICT, WITHOUT ROWID;

CREATE INDEX deliveries_waiting ON deliveries (origin, endpoint, due_at, prediction_id, event) WHERE status = 0;
CREATE INDEX deliveries_begun ON deliveries (begun_at) WHERE status = 0;
CREATE INDEX deliveries_leases ON deliveries (lease_until) WHERE status = 1;
CREATE INDEX deliveries_newest ON deliveries (tenant, created_at DESC, prediction_id DESC, event DESC);
CREATE INDEX deliveries_given_up ON deliveries (tenant, created_at DESC, prediction_id DESC, event DESC) WHERE status >= 3;
CREATE INDEX deliveries_of_endpoint ON deliveries (tenant, endpoint, created_at DESC, prediction_id DESC, event DESC);
CREATE INDEX deliveries_tests ON deliveries (created_at) WHERE event = 0 AND status >= 2;

CREATE TABLE delivery_attempts (
    prediction_id BLOB    NOT NULL,
    event         INTEGER NOT NULL,
    attempt       INTEGER NOT NULL,
    at            INTEGER NOT NULL,
    latency       INTEGER NOT NULL,
    status        INTEGER,
    answer        BLOB,
    error         TEXT,
    message       TEXT,
    PRIMARY KEY (prediction_id, event, attempt),
    CONSTRAINT delivery_attempts_from_one CHECK (attempt > 0),
    CONSTRAINT delivery_attempts_answer_or_error CHECK ((status IS NULL) = (error IS NOT NULL)),
    CONSTRAINT delivery_attempts_whole_error CHECK ((error IS NULL) = (message IS NULL)),
    CONSTRAINT delivery_attempts_answer_bounded CHECK (answer IS NULL OR (status IS NOT NULL AND length(answer) <= 16384))
) STRICT;

CREATE TABLE endpoints (
    id          BLOB    NOT NULL PRIMARY KEY CHECK (length(id) = 16),
    tenant      TEXT    NOT NULL,
    url         TEXT    NOT NULL,
    body        INTEGER NOT NULL DEFAULT 0,
    created_at  INTEGER NOT NULL,
    disabled_at INTEGER,
    CONSTRAINT endpoints_url_once UNIQUE (tenant, url),
    CONSTRAINT endpoints_url_given CHECK (url <> ''),
    CONSTRAINT endpoints_body_known CHECK (body BETWEEN 0 AND 1)
) STRICT, WITHOUT ROWID;
CREATE INDEX endpoints_newest ON endpoints (tenant, created_at DESC, id DESC);

CREATE TABLE webhook_secrets (
    id         INTEGER PRIMARY KEY,
    tenant     TEXT    NOT NULL,
    endpoint   TEXT    NOT NULL,
    sealed     BLOB    NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER
) STRICT;
CREATE UNIQUE INDEX webhook_secrets_one_current ON webhook_secrets (tenant, endpoint) WHERE expires_at IS NULL;
CREATE INDEX webhook_secrets_of_endpoint ON webhook_secrets (tenant, endpoint);
CREATE INDEX webhook_secrets_expiry ON webhook_secrets (expires_at) WHERE expires_at IS NOT NULL;

CREATE TRIGGER deliveries_begin BEFORE INSERT ON deliveries
WHEN NEW.status <> 0 OR NEW.epoch <> 0 OR NEW.attempts <> 0
BEGIN
    SELECT RAISE(ABORT, 'a delivery begins as waiting, at epoch 0, untried');
END;

CREATE TRIGGER deliveries_edge BEFORE UPDATE ON deliveries
WHEN OLD.status <> NEW.status AND OLD.status <> 1
     AND NOT (OLD.status = 0 AND NEW.status IN (1, 3)) AND NOT (OLD.status >= 2 AND NEW.status = 0)
BEGIN
    SELECT RAISE(ABORT, 'deliveries have no such edge');
END;

CREATE TRIGGER deliveries_over BEFORE UPDATE ON deliveries
WHEN OLD.status >= 2 AND NEW.status = OLD.status AND (NEW.epoch <> OLD.epoch OR NEW.attempts <> OLD.attempts
     OR NEW.round <> OLD.round OR NEW.completed_at IS NOT OLD.completed_at)
BEGIN
    SELECT RAISE(ABORT, 'a delivery that is over does not change but begins again');
END;

CREATE TRIGGER deliveries_fence BEFORE UPDATE ON deliveries
WHEN NEW.epoch < OLD.epoch
     OR (NEW.epoch = OLD.epoch AND NEW.status <> OLD.status AND (NEW.status = 1 OR OLD.status >= 2))
BEGIN
    SELECT RAISE(ABORT, 'the epoch never goes down, and every claim and redelivery raises it');
END;

CREATE TRIGGER deliveries_counts BEFORE UPDATE ON deliveries
WHEN NEW.attempts < OLD.attempts OR (NEW.round < OLD.round AND OLD.status < 2)
BEGIN
    SELECT RAISE(ABORT, 'attempts are never forgotten');
END;

CREATE TRIGGER deliveries_kept BEFORE DELETE ON deliveries
WHEN OLD.status < 2
BEGIN
    SELECT RAISE(ABORT, 'an unfinished delivery is never deleted');
END;

CREATE TRIGGER delivery_attempts_append_only BEFORE UPDATE ON delivery_attempts
BEGIN
    SELECT RAISE(ABORT, 'an attempt is written once');
END;
