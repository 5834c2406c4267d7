-- What operators did with dead letters. The letters themselves are on the topic dead-letters; one that nobody has
-- touched has no row here.
CREATE TABLE dead_letters (
    letter      text        NOT NULL PRIMARY KEY, -- sha256 of where the event stood, its stage and its bytes, as hex:
                                                  -- copies of one letter share it
    lane        text        NOT NULL,
    partition   integer     NOT NULL, -- where the letter was read when it was touched first
    "offset"    bigint      NOT NULL,
    state       text        NOT NULL CHECK (state IN ('retrying', 'retried', 'dropped')),
    reason      text        NOT NULL DEFAULT '',
    changed_by  text        NOT NULL,
    changed_at  timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON COLUMN dead_letters.state IS 'retrying: a retry was begun and the broker''s acknowledgement is not noted yet';

-- One row a retry. A header on the event names the run; stages believe the row, not the header.
CREATE TABLE redrives (
    run               text        NOT NULL PRIMARY KEY,
    letter            text        NOT NULL REFERENCES dead_letters ON DELETE CASCADE,
    number            integer     NOT NULL CHECK (number > 0), -- of the letter's retries
    lane              text        NOT NULL,
    topic             text        NOT NULL, -- where the event was and is published
    value_digest      text        NOT NULL, -- sha256 of the event's bytes, as hex; empty for a null value
    source_partition  integer     NOT NULL, -- where the event stood when it failed
    source_offset     bigint      NOT NULL,
    first_failed_at   timestamptz,
    tenant            text,                 -- null where the bytes could not be decoded
    request_id        text,
    started_by        text        NOT NULL,
    created_at        timestamptz NOT NULL DEFAULT clock_timestamp(),
    published_at      timestamptz,
    revision          integer,              -- of the answer that the retry led to
    answered_at       timestamptz,
    UNIQUE (letter, number)
);
CREATE INDEX redrives_created_at ON redrives USING brin (created_at);
