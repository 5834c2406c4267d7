-- Events that wait outside the log: acknowledged on their topic, and put back there when they may go on.
CREATE TABLE deferred (
    lane            text NOT NULL,
    stage           text NOT NULL,
    run             text NOT NULL,
    event_id        text NOT NULL,
    topic_kind      text NOT NULL,
    key             bytea,
    value           bytea NOT NULL,
    header_names    text[] NOT NULL,
    header_values   bytea[] NOT NULL,
    tenant          text NOT NULL,
    route           text NOT NULL,
    priority        text NOT NULL,
    request_id      text NOT NULL,
    accepted_at     timestamptz NOT NULL,
    expires_at      timestamptz,
    not_before      timestamptz NOT NULL DEFAULT clock_timestamp(),
    reason          text NOT NULL,
    control_offset  bigint NOT NULL,
    generation      integer NOT NULL DEFAULT 0,
    taken_until     timestamptz NOT NULL DEFAULT '-infinity',
    deferred_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (lane, stage, run, event_id),
    CHECK (cardinality(header_names) = cardinality(header_values))
);
COMMENT ON TABLE deferred IS 'Events that a paused tenant or route holds back; each is put on its topic again as it was';
COMMENT ON COLUMN deferred.key IS 'Key, value and headers as they were on the topic';
COMMENT ON COLUMN deferred.reason IS 'What holds it back, e.g. tenant/acme';
COMMENT ON COLUMN deferred.control_offset IS 'Offset of the last control record known when it was set aside';
COMMENT ON COLUMN deferred.generation IS 'Grows when the event is set aside again: only the generation that was put back is deleted';
COMMENT ON COLUMN deferred.taken_until IS 'A worker puts it back until then, by this database''s clock; after that another one may';

CREATE INDEX deferred_due ON deferred (lane, stage, tenant, route, not_before);
CREATE INDEX deferred_expiry ON deferred (lane, stage, expires_at);
CREATE INDEX deferred_request ON deferred (lane, tenant, request_id);
