-- Mirrors: replays without an end, which may spend so much each day.
CREATE TABLE mirror_days (
    run             text NOT NULL REFERENCES replay_runs ON DELETE CASCADE,
    day             date NOT NULL,
    held_usd        numeric(38, 12) NOT NULL DEFAULT 0 CHECK (held_usd >= 0),
    spent_usd       numeric(38, 12) NOT NULL DEFAULT 0 CHECK (spent_usd >= 0),
    calls           bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (run, day)
);
COMMENT ON TABLE mirror_days IS 'What a mirror spent on each day, by this database''s clock in UTC';
COMMENT ON COLUMN mirror_days.held_usd IS 'The most that the events which are open can cost';
COMMENT ON COLUMN mirror_days.calls IS 'Events for which something could be spent';

-- An event that was begun, until its outputs are noted. What it may cost is held of the day on which it was begun.
CREATE TABLE mirror_calls (
    run             text NOT NULL REFERENCES replay_runs ON DELETE CASCADE,
    event_id        text NOT NULL,
    day             date NOT NULL,
    most_usd        numeric(38, 12) NOT NULL CHECK (most_usd >= 0),
    cost_usd        numeric(38, 12) CHECK (cost_usd >= 0),
    PRIMARY KEY (run, event_id)
);
COMMENT ON COLUMN mirror_calls.most_usd IS 'The most that it can cost';
COMMENT ON COLUMN mirror_calls.cost_usd IS 'What it did cost; NULL while it is open';
