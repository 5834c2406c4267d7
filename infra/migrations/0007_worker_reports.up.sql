-- What each worker says about itself every few seconds. A row is removed at an orderly stop; one that is no longer
-- updated belongs to a worker that ended otherwise.
CREATE TABLE worker_reports (
    lane        text        NOT NULL,
    slot        text        NOT NULL,
    stages      text        NOT NULL, -- in the order of the command line, joined by +
    host        text        NOT NULL,
    pid         integer     NOT NULL,
    url         text        NOT NULL, -- where it serves /readyz and /metrics
    version     text        NOT NULL,
    started_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    report      jsonb       NOT NULL,
    PRIMARY KEY (lane, slot, stages)
);
COMMENT ON TABLE worker_reports IS 'One row a worker process, by the database''s clock';
COMMENT ON COLUMN worker_reports.report IS 'Readiness, and figures by stage since started_at: counts, histograms, spend';
