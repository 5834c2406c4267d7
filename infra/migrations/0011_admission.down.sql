DROP TABLE budget_reservations;
DROP TABLE budgets;
DROP TABLE in_flight_tenants;
DROP TABLE in_flight;
ALTER TABLE idempotency DROP COLUMN ruling, DROP COLUMN ruled_by, DROP COLUMN ruled_until;
DROP TABLE rate_buckets;
