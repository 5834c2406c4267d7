DROP TABLE finals;
DROP TABLE idempotency;
