-- Usage of further kinds, the price book's version, and corrections of amounts after prices changed.
ALTER TABLE attempts ADD COLUMN usage_details jsonb;
COMMENT ON COLUMN attempts.usage_details IS 'Kinds of tokens with a price of their own, and searches, by the price library''s names';

ALTER TABLE ledger
    ADD COLUMN price_version text NOT NULL DEFAULT '',
    ADD COLUMN error_code    text,
    ADD COLUMN correction    text NOT NULL DEFAULT '',
    ADD COLUMN usage_details jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN ledger.price_version IS 'Version of the price book that the amount was last worked out by; empty for rows of before it was told';
COMMENT ON COLUMN ledger.error_code IS 'Code of the error that ended a failed or unknown attempt';
COMMENT ON COLUMN ledger.correction IS 'late or rerate, where the last event of the attempt corrected an earlier one';

-- What `headrace costs rerate` decided: written before its event is published, so that it is the same event if it has
-- to be published again.
CREATE TABLE rerates (
    event_id        text PRIMARY KEY,
    attempt_id      text NOT NULL REFERENCES ledger ON DELETE CASCADE,
    lane            text NOT NULL,
    request_id      text NOT NULL,
    old_usd         numeric(38, 12) NOT NULL,
    correction_usd  numeric(38, 12) NOT NULL,
    new_usd         numeric(38, 12) NOT NULL,
    price_source    text NOT NULL,
    price_version   text NOT NULL,
    event           bytea NOT NULL,
    decided_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    booked_at       timestamptz,
    CHECK (new_usd = old_usd + correction_usd)
);
-- One correction at a time: the next one is worked out from a row that has the one before.
CREATE UNIQUE INDEX rerates_open ON rerates (attempt_id) WHERE booked_at IS NULL;
CREATE INDEX rerates_attempt ON rerates (attempt_id);
COMMENT ON TABLE rerates IS 'Corrections of the ledger for changed prices; goes with the row that it corrects';
COMMENT ON COLUMN rerates.event IS 'Wire bytes of the correction event';
COMMENT ON COLUMN rerates.booked_at IS 'When the ledger was seen to have it';
