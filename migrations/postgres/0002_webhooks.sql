-- Webhooks: what callers want to be told of, the deliveries that tell them, and what is known of their endpoints.
--
-- Event codes (crate `prediction`, Event::code): 0 test, 1 start, 2 output, 3 logs, 4 completed.
-- Delivery status codes (DeliveryStatus::code): 0 waiting, 1 sending, 2 delivered, 3 exhausted, 4 disabled.
-- Body form codes (BodyForm::code): 0 the prediction, 1 {type, timestamp, data}.

-- Which events the caller wants: bit n for the event with the code n. In the hot row, so that a prediction without a
-- webhook costs nothing more when it ends.
ALTER TABLE predictions ADD COLUMN webhook_events smallint NOT NULL DEFAULT 0
    CONSTRAINT predictions_webhook_events_known CHECK (webhook_events BETWEEN 0 AND 30 AND webhook_events % 2 = 0); -- nobody asks for tests

-- Where to. `endpoint` is the URL without its query: what settings, secrets and 410 go by. `origin` is its scheme, host and
-- port: what limits and health go by.
ALTER TABLE inputs
    ADD COLUMN webhook_url      text COLLATE "C",
    ADD COLUMN webhook_endpoint text COLLATE "C",
    ADD COLUMN webhook_origin   text COLLATE "C",
    ADD CONSTRAINT inputs_whole_webhook
        CHECK ((webhook_url IS NULL) = (webhook_endpoint IS NULL) AND (webhook_url IS NULL) = (webhook_origin IS NULL));

-- The outbox: one row per prediction and event, written in the statement that makes the event happen. The body is made
-- of the prediction when it is sent. No foreign key, as with the payloads: a test has no prediction, and the purge
-- removes a prediction and its deliveries together, once all are over.
CREATE TABLE deliveries (
    prediction_id uuid        NOT NULL,
    created_at    timestamptz NOT NULL,             -- when it happened
    due_at        timestamptz NOT NULL,             -- not tried before
    begun_at      timestamptz NOT NULL,             -- start of the present round of attempts: a redelivery begins another
    lease_until   timestamptz,
    completed_at  timestamptz,
    sender        uuid,
    epoch         integer     NOT NULL DEFAULT 0,   -- the fence, as in predictions
    attempts      integer     NOT NULL DEFAULT 0,   -- recorded in all
    round         integer     NOT NULL DEFAULT 0,   -- recorded in the present round
    event         smallint    NOT NULL,             -- also the place among its prediction's events
    status        smallint    NOT NULL DEFAULT 0,
    tenant        text COLLATE "C" NOT NULL,
    url           text COLLATE "C" NOT NULL,
    endpoint      text COLLATE "C" NOT NULL,
    origin        text COLLATE "C" NOT NULL,
    PRIMARY KEY (prediction_id, event),

    CONSTRAINT deliveries_event_known CHECK (event BETWEEN 0 AND 4),
    CONSTRAINT deliveries_status_known CHECK (status BETWEEN 0 AND 4),
    CONSTRAINT deliveries_counts_positive CHECK (epoch >= 0 AND round >= 0 AND attempts >= round),
    CONSTRAINT deliveries_sending_has_sender CHECK ((status = 1) = (sender IS NOT NULL)),
    CONSTRAINT deliveries_sending_has_lease CHECK ((status = 1) = (lease_until IS NOT NULL)),
    CONSTRAINT deliveries_over_has_end CHECK ((status >= 2) = (completed_at IS NOT NULL)),
    CONSTRAINT deliveries_delivered_was_tried CHECK (status <> 2 OR round > 0)
) WITH (
    -- A queue's rows again: see predictions.
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_analyze_scale_factor = 0.05
);

-- One line for each endpoint, those of an origin side by side, so that a claim takes from every line and skips the lines of
-- endpoints and of origins that are not well, however long and however many those are. Events of one moment go in the order in
-- which they happened.
CREATE INDEX deliveries_waiting ON deliveries (origin, endpoint, due_at, prediction_id, event) WHERE status = 0;
-- What has waited too long in all. Its condition is not that of the lines: statistics of a moment when nothing waits would make
-- this index, the smaller one, look as good for a claim, which would then read all that waits once per line.
CREATE INDEX deliveries_begun ON deliveries (begun_at) WHERE completed_at IS NULL;
CREATE INDEX deliveries_leases ON deliveries (lease_until) WHERE status = 1;
CREATE INDEX deliveries_newest ON deliveries (tenant, created_at DESC, prediction_id DESC, event DESC);
-- What was given up, for those who look after it.
CREATE INDEX deliveries_given_up ON deliveries (tenant, created_at DESC, prediction_id DESC, event DESC) WHERE status >= 3;
CREATE INDEX deliveries_of_endpoint ON deliveries (tenant, endpoint, created_at DESC, prediction_id DESC, event DESC);
-- Tests belong to no prediction and are removed by themselves.
CREATE INDEX deliveries_tests ON deliveries (created_at) WHERE event = 0 AND status >= 2;

-- Every attempt that came to an end, never changed. Attempts are counted from 1.
CREATE TABLE delivery_attempts (
    prediction_id uuid        NOT NULL,
    event         smallint    NOT NULL,
    attempt       integer     NOT NULL,
    at            timestamptz NOT NULL,             -- when it began; also what was signed
    latency       bigint      NOT NULL,             -- microseconds
    status        smallint,                         -- the answer's HTTP status; NULL: there was no answer
    answer        bytea,                            -- the first bytes of its body
    error         text COLLATE "C",                 -- in one word, why there was no answer
    message       text,                             -- the same for people
    PRIMARY KEY (prediction_id, event, attempt),
    CONSTRAINT delivery_attempts_from_one CHECK (attempt > 0),
    CONSTRAINT delivery_attempts_answer_or_error CHECK ((status IS NULL) = (error IS NOT NULL)),
    CONSTRAINT delivery_attempts_whole_error CHECK ((error IS NULL) = (message IS NULL)),
    CONSTRAINT delivery_attempts_answer_bounded CHECK (answer IS NULL OR (status IS NOT NULL AND octet_length(answer) <= 16384))
);

-- Endpoints of which something is to be remembered: a choice of their owner, or that they want no more (410).
CREATE TABLE endpoints (
    id          uuid        PRIMARY KEY,
    tenant      text COLLATE "C" NOT NULL,
    url         text COLLATE "C" NOT NULL,          -- without a query
    body        smallint    NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL,
    disabled_at timestamptz,
    CONSTRAINT endpoints_url_once UNIQUE (tenant, url),
    CONSTRAINT endpoints_url_given CHECK (url <> ''),
    CONSTRAINT endpoints_body_known CHECK (body BETWEEN 0 AND 1)
);
CREATE INDEX endpoints_newest ON endpoints (tenant, created_at DESC, id DESC);

-- Signing secrets, encrypted with a key that this database never sees. The empty endpoint has the tenant's default one,
-- for endpoints without one of their own.
CREATE TABLE webhook_secrets (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant     text COLLATE "C" NOT NULL,
    endpoint   text COLLATE "C" NOT NULL,
    sealed     bytea       NOT NULL,
    created_at timestamptz NOT NULL,
    expires_at timestamptz                          -- set once another took its place: until then it signs beside that one
);
CREATE UNIQUE INDEX webhook_secrets_one_current ON webhook_secrets (tenant, endpoint) WHERE expires_at IS NULL;
CREATE INDEX webhook_secrets_of_endpoint ON webhook_secrets (tenant, endpoint);
CREATE INDEX webhook_secrets_expiry ON webhook_secrets (expires_at) WHERE expires_at IS NOT NULL;

CREATE TRIGGER deliveries_begin BEFORE INSERT ON deliveries FOR EACH ROW
WHEN (NEW.status <> 0 OR NEW.epoch <> 0 OR NEW.attempts <> 0)
EXECUTE FUNCTION refuse_change('a delivery begins as waiting, at epoch 0, untried');

CREATE TRIGGER deliveries_edge BEFORE UPDATE ON deliveries FOR EACH ROW
WHEN (OLD.status <> NEW.status AND OLD.status <> 1
      AND NOT (OLD.status = 0 AND NEW.status IN (1, 3)) AND NOT (OLD.status >= 2 AND NEW.status = 0))
EXECUTE FUNCTION refuse_change('deliveries have no such edge');

CREATE TRIGGER deliveries_over BEFORE UPDATE ON deliveries FOR EACH ROW
WHEN (OLD.status >= 2 AND NEW.status = OLD.status AND (NEW.epoch <> OLD.epoch OR NEW.attempts <> OLD.attempts
      OR NEW.round <> OLD.round OR NEW.completed_at IS DISTINCT FROM OLD.completed_at))
EXECUTE FUNCTION refuse_change('a delivery that is over does not change but begins again');

CREATE TRIGGER deliveries_fence BEFORE UPDATE ON deliveries FOR EACH ROW
WHEN (NEW.epoch < OLD.epoch OR (NEW.epoch = OLD.epoch AND NEW.status <> OLD.status AND (NEW.status = 1 OR OLD.status >= 2)))
EXECUTE FUNCTION refuse_change('the epoch never goes down, and every claim and redelivery raises it');

CREATE TRIGGER deliveries_counts BEFORE UPDATE ON deliveries FOR EACH ROW
WHEN (NEW.attempts < OLD.attempts OR (NEW.round < OLD.round AND OLD.status < 2))
EXECUTE FUNCTION refuse_change('attempts are never forgotten');

CREATE TRIGGER deliveries_kept BEFORE DELETE ON deliveries FOR EACH ROW
WHEN (OLD.status < 2)
EXECUTE FUNCTION refuse_change('an unfinished delivery is never deleted');

CREATE TRIGGER delivery_attempts_append_only BEFORE UPDATE ON delivery_attempts FOR EACH ROW
EXECUTE FUNCTION refuse_change('an attempt is written once');
