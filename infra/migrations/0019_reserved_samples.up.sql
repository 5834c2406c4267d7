-- A request that is fanned out reserves once for all of its calls, whose attempts stand under ids of their own.
ALTER TABLE budget_reservations ADD COLUMN samples uuid[] NOT NULL DEFAULT '{}';
COMMENT ON COLUMN budget_reservations.samples IS 'The calls that spend what is reserved here, beside call_id itself';
