DROP INDEX cache_vectors_embedding;
ALTER TABLE idempotency DROP COLUMN tokens_used;
DROP INDEX calls_open;
DROP INDEX attempts_late_untold;
ALTER TABLE attempts DROP COLUMN late_told_at;
DROP TABLE spends;
