-- Which answers are to be scored, and the event that was or will be published of each.
-- A row without a value is expected and not done. source: 'sample', or 'feedback' for a user's rating.
CREATE TABLE evaluations (
    tenant text NOT NULL,
    lane text NOT NULL,
    request_id text NOT NULL,
    event_id text NOT NULL,
    answer_event_id text NOT NULL,
    source text NOT NULL CHECK (source IN ('sample', 'feedback')),
    route text NOT NULL,
    model text NOT NULL,
    prompt_version text NOT NULL,
    expected_at timestamptz NOT NULL DEFAULT now(),
    done_at timestamptz,
    -- An array of {name, scorer, version, value, failure_code}.
    scores jsonb,
    value bytea,
    -- The cost event of what scoring spent; null where it was free.
    cost bytea,
    PRIMARY KEY (tenant, lane, request_id, event_id),
    CHECK ((value IS NULL) = (done_at IS NULL))
);

-- What users thought of answers. answer_event_id: the answer it was joined to; null while it waits for one.
CREATE TABLE feedback (
    tenant text NOT NULL,
    lane text NOT NULL,
    event_id text NOT NULL,
    request_id text NOT NULL,
    -- sha256 of what it says, as hex: the same id must not say two things.
    digest text NOT NULL,
    answer_event_id text,
    value bytea NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, lane, event_id)
);

CREATE INDEX feedback_request ON feedback (tenant, lane, request_id);
-- What reports and the purge job find their rows by.
CREATE INDEX evaluations_expected_at ON evaluations (expected_at);
CREATE INDEX feedback_received_at ON feedback (received_at);
